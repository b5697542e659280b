"""Fréchet distance of digits against network calls, for samplers and the bundled models.

The same number of samples everywhere, from the same seeds, against the training digits that ship
as statistics, in the bundled classifier's features. Writes JSON after every point, continues where
it stopped, and draws one plot.

    python benchmarks/sampler_curves.py --num 1000 --json FILE.json --picture FILE.png
"""

import argparse
import datetime
import json
import time
from pathlib import Path

import torch

from trilemma.images import to_uint8
from trilemma.metrics import DigitFeatures, frechet_distance, gaussian_stats, mnist_reference
from trilemma.pipeline import load
from trilemma.sampling import make_sampler

CALLS = (5, 10, 20, 30, 50, 100)
LINES = [
    ("cld-mnist", "euler_maruyama", {}, "quadratic", (20, 50, 100, 200)),
    ("cld-mnist", "sscs", {}, "quadratic", (20, 50, 100, 200)),
    ("cld-mnist", "gddim", {"num_history": 1}, "root", CALLS),
    ("cld-mnist", "gddim", {"num_history": 2}, "root", CALLS),
    ("cld-mnist", "gddim", {"num_history": 3}, "root", CALLS),
    ("cld-mnist", "heun", {}, "quadratic", (20, 50, 100)),
    ("ddpm-mnist", "ancestral", {}, "uniform", (20, 50, 100)),
    ("ddpm-mnist", "euler_maruyama", {}, "quadratic", (20, 50, 100)),
    ("ddpm-mnist", "sscs", {}, "quadratic", (20, 50, 100)),
    ("ddpm-mnist", "gddim", {"num_history": 1}, "root", CALLS),
    ("ddpm-mnist", "gddim", {"num_history": 2}, "root", CALLS),
    ("ddpm-mnist", "dpm_solver", {}, "log_snr", CALLS),
    ("ddpm-mnist", "dpm_solver", {"stochastic": True}, "log_snr", (10, 20, 50)),
    ("ddpm-mnist", "heun", {}, "rho", (10, 20, 50)),
    ("ddpm-mnist", "predictor_corrector", {}, "uniform", (50, 100)),
    ("cld-mnist", "predictor_corrector", {}, "quadratic", (50, 100)),
    ("ddpm-mnist", "ode", {"rtol": 1e-2, "atol": 1e-2}, "uniform", (1,)),
    ("ddpm-mnist", "ode", {"rtol": 1e-3, "atol": 1e-3}, "uniform", (1,)),
    ("cld-mnist", "ode", {"rtol": 1e-2, "atol": 1e-2}, "uniform", (1,)),
    ("cld-mnist", "ode", {"rtol": 1e-3, "atol": 1e-3}, "uniform", (1,)),
    ("ddgan-mnist", "ancestral", {}, "uniform", (4,)),
]


def name_of(line):
    model, sampler, settings, _, _ = line
    extra = ", ".join(f"{k}={v}" for k, v in settings.items())
    return f"{model}: {sampler}" + (f" ({extra})" if extra else "")


def measure(model, sampler, settings, grid, calls, num, batch):
    chosen = make_sampler(sampler, **settings)
    started = time.perf_counter()
    drawn = model.sample(
        num,
        sampler=chosen,
        num_steps=calls // chosen.evals_per_step,
        grid=grid,
        final="none",  # the samplers alone
        batch_size=batch,
    )
    seconds = time.perf_counter() - started
    features = DigitFeatures()(to_uint8(drawn))
    distance = frechet_distance(gaussian_stats(features), mnist_reference().train)
    return {"calls": model.last_nfe, "fd_digits": distance, "seconds": round(seconds, 1)}


def draw(rows, floor, num, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = ("cld-mnist", "ddpm-mnist")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for axis, model in zip(axes, models, strict=True):
        for line in dict.fromkeys(row["line"].split(" (rtol")[0] for row in rows):
            shown = line.startswith((model, "ddgan"))
            points = sorted(
                (row["calls"], row["fd_digits"])
                for row in rows
                if row["line"].split(" (rtol")[0] == line
            )
            if shown:
                label = line.removeprefix(f"{model}: ")
                axis.loglog(*zip(*points, strict=True), "o-", ms=4, label=label)
        axis.axhline(floor, color="grey", ls=":", label="real digits")
        axis.set_title(model)
        axis.set_xlabel("network calls")
        axis.legend(fontsize=7)
    axes[0].set_ylabel(f"fd_digits, {num} samples")
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=1000, help="samples per point")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--models", nargs="+", help="only these, and no picture of the others")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="runs named as the models, instead of bundled")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = {"date": datetime.date.today().isoformat(), "torch": torch.__version__}
    result |= {"num": args.num, "threads": args.threads, "rows": []}
    if args.json.exists():
        result = json.loads(args.json.read_text())
    real = mnist_reference()
    real_images = real.images[: args.num]
    floor = frechet_distance(gaussian_stats(DigitFeatures()(real_images)), real.train)
    result["floor"] = {"fd_digits": floor, "num": len(real_images)}
    models = {}
    for line in LINES:
        model, sampler, settings, grid, all_calls = line
        for calls in all_calls if not args.models or model in args.models else ():
            key = {"line": name_of(line), "asked": calls}
            if any(all(row[k] == v for k, v in key.items()) for row in result["rows"]):
                continue
            if model not in models:
                where = args.folder / model if args.folder else None
                models[model] = load(where if where and where.exists() else model)
            row = key | measure(models[model], sampler, settings, grid, calls, args.num, args.batch)
            result["rows"].append(row)
            print(json.dumps(row), flush=True)
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.picture:
        draw(result["rows"], floor, args.num, args.picture)


if __name__ == "__main__":
    main()
