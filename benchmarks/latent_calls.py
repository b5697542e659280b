"""Fréchet distance against network calls: a latent model in a few, a pixel model in a thousand.

    python benchmarks/latent_calls.py --data PATH --num 2500 --json FILE

Both models draw the same number of digits in one run, on the same machine and threads; wall-clock
time stands beside each. Every sampler and number of calls of the latent model is a row of its own.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from trilemma import load
from trilemma.data import HubImages
from trilemma.images import to_uint8
from trilemma.metrics import evaluate, extractor_for


def row(name, samples, seconds, calls, sampler, real, rest, network):
    records = evaluate(samples, real, network, split="train", floor_real=rest)
    found = {r.name: {"value": r.value, "error": r.error, "floor": r.floor} for r in records}
    print(
        f"{name:>12} {sampler:>12} {calls:>5} calls: fd_digits "
        f"{found['fd_digits']['value']:.2f} ± {found['fd_digits']['error'] or 0:.2f} "
        f"(floor {found['fd_digits']['floor']:.2f}), "
        f"{1000 * seconds / len(samples):.1f} ms a digit",
        flush=True,
    )
    return {
        "model": name,
        "sampler": sampler,
        "calls": calls,
        "seconds": seconds,
        "num": len(samples),
        "metrics": found,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="MNIST, as for training")
    parser.add_argument("--num", type=int, default=2500)
    parser.add_argument("--latent", default="lsgm-mnist")
    parser.add_argument("--pixel", default="ddpm-mnist")
    parser.add_argument("--latent-steps", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--samplers", nargs="+", default=["gddim"])
    parser.add_argument("--grid", help="time grid of the latent model")
    parser.add_argument(
        "--pixel-steps", type=int, default=1000, help="0 leaves the pixel model out"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = HubImages(options.data, split="train", channels=1)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(options.seed))
    real = data.images_uint8(order[: options.num])
    rest = data.images_uint8(order[options.num : 2 * options.num])
    network = extractor_for(real)
    plans = [
        (options.latent, sampler, steps, options.grid)
        for sampler in options.samplers
        for steps in options.latent_steps
    ]
    if options.pixel_steps:
        plans.append((options.pixel, "ancestral", options.pixel_steps, None))
    rows = []
    for name, sampler, steps, grid in plans:
        pipeline = load(name)
        started = time.perf_counter()
        drawn = pipeline.sample(
            options.num,
            sampler=sampler,
            num_steps=steps,
            grid=grid,
            final="none",  # the samplers alone
            seed=options.seed,
            batch_size=100,
        )
        seconds = time.perf_counter() - started
        label = Path(name).stem
        calls = pipeline.last_nfe
        rows.append(row(label, to_uint8(drawn), seconds, calls, sampler, real, rest, network))
    if options.json:
        settings = {"threads": options.threads, "seed": options.seed, "torch": torch.__version__}
        Path(options.json).write_text(json.dumps({**settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
