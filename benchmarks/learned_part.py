"""How much the networks of the bundled digit models have to add to the Gaussian part of the noise.

Both models have a mixed score: the noise that Gaussian data would show is given, the network adds
the rest. Printed along t: the root mean square of what the network adds, per dimension, and the
error of the predicted noise, on test digits. Prints JSON.

    python benchmarks/learned_part.py > benchmarks/results/NAME.json
"""

import argparse
import datetime
import json
from pathlib import Path

import torch

from trilemma.metrics import mnist_reference
from trilemma.pipeline import load
from trilemma.rng import BatchRng


def along_t(pipeline, x0, times):
    method = pipeline.method
    denoiser, process = method.denoiser(), method.process
    blocks = method.parametrisation.output_blocks(process)
    rows = []
    for t in times:
        rng = BatchRng(0, len(x0))
        eps = rng.normal(process.num_blocks, *x0.shape[1:])
        u = process.marginal(t).sample(process.lift(x0), eps)
        with torch.inference_mode():
            added = denoiser.output(u, t)
            error = (denoiser.eps(u, t) - eps)[:, blocks]
        rows.append(
            {
                "t": float(t),
                "added": float(added.square().mean().sqrt()),
                "error": float(error.square().mean().sqrt()),
            }
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="runs named as the models, instead of bundled")
    args = parser.parse_args()
    torch.set_num_threads(1)
    x0 = mnist_reference().images[: args.num].float() / 127.5 - 1
    times = torch.linspace(0.02, 1, 25, dtype=torch.float64)
    result = {"date": datetime.date.today().isoformat(), "num": len(x0)}
    for name in ("cld-mnist", "ddpm-mnist"):
        where = args.folder / name if args.folder else name
        rows = along_t(load(where), x0, times)
        mean = (sum(row["added"] ** 2 for row in rows) / len(rows)) ** 0.5
        result[name] = {"rms_added": mean, "rows": rows}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
