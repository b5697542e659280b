"""What Langevin diffusion claims, with the exact score of a mixture in the plane.

Three tables, no network and no training: (1) distance of samples to the data, and width of the
modes, for every sampler and number of calls; (2) how much a score network would have to learn
along t, for Langevin diffusion and for VP; (3) the angle that the noise turns by along a
deterministic path.

    python benchmarks/langevin_2d.py --json benchmarks/results/NAME.json --picture docs/images/NAME
"""

import argparse
import datetime
import json
from pathlib import Path

import torch

from trilemma.data import Toy
from trilemma.metrics import sliced_wasserstein
from trilemma.oracle import ExactMixture
from trilemma.processes import CLD, VP, act, make_grid
from trilemma.rng import BatchRng
from trilemma.samplers import GDDIM, SSCS, DPMSolver, EulerMaruyama, Heun
from trilemma.samplers.gddim import rotation_angle

CALLS = (10, 20, 30, 50, 100, 200, 500)
SAMPLERS = {
    "Euler-Maruyama": (EulerMaruyama(), "quadratic"),
    "SSCS": (SSCS(), "quadratic"),
    "gDDIM q=1": (GDDIM(num_history=1), "root"),
    "gDDIM q=2": (GDDIM(num_history=2), "root"),
    "gDDIM q=3": (GDDIM(num_history=3), "root"),
    "gDDIM q=2, Cholesky": (GDDIM(num_history=2, factor="cholesky"), "root"),
    "Heun": (Heun(), "quadratic"),
    "DPM-Solver++ 2M": (DPMSolver(), "log_snr"),
}
T_MIN = 1e-4
"""End of the grids, where the noise that is left widens the modes by 1.6 % under VP."""
PROCESSES = {"CLD": CLD(), "VP": VP()}


def mixture(process):
    toy = Toy("grid25")
    return ExactMixture(process, toy.from_data_units(toy.modes), toy.std / toy.scale)


def distances(num, seed):
    rows = []
    for name, process in PROCESSES.items():
        oracle = mixture(process)
        draws = [oracle.sample(num, torch.Generator().manual_seed(seed + i)) for i in (1, 2)]
        floor = sliced_wasserstein(*draws)
        for label, (sampler, grid_name) in SAMPLERS.items():
            if isinstance(sampler, DPMSolver) and process.num_blocks > 1:
                continue
            for calls in CALLS:
                steps = calls // sampler.evals_per_step
                grid = make_grid(grid_name, process, steps, T_MIN)
                rng = BatchRng(seed, num)
                factor = torch.linalg.cholesky(process.prior_cov())
                u = act(factor, rng.normal(process.num_blocks, 2).double())
                drawn = sampler.run(oracle, u, grid, rng)[:, 0]
                row = {"process": name, "sampler": label, "calls": calls}
                row["sw2"] = sliced_wasserstein(drawn, draws[0])
                row["spread"] = spread(drawn, oracle)
                rows.append(row)
            for key in ("sw2", "spread"):
                shown = [f"{row[key]:9.4f}" for row in rows[-len(CALLS) :]]
                print(f"{name:4} {label:22} {key:7}", *shown, flush=True)
    return rows, floor


def spread(points, oracle):
    """Root mean square distance to the nearest centre, in units of what it should be."""
    nearest = torch.cdist(points, oracle.centres).min(dim=1).values
    return float(nearest.square().mean().sqrt()) / (oracle.std * points.shape[1] ** 0.5)


def to_learn(num=4000, seed=0):
    """Root mean square of the noise that is left to the network, per dimension, along t.

    For Langevin diffusion the velocity's noise beyond the mixed score; for VP the noise beyond
    that of Gaussian data, both for data of unit variance.
    """
    rows = []
    for t in torch.linspace(0.02, 1, 50, dtype=torch.float64):
        row = {"t": float(t)}
        for name, process in PROCESSES.items():
            oracle = mixture(process)
            rng = torch.Generator().manual_seed(seed)
            u_0 = process.lift(oracle.sample(num, rng))
            eps = torch.randn(u_0.shape, generator=rng, dtype=torch.float64)
            kernel = process.marginal(t)
            u = kernel.sample(u_0, eps)
            block = process.num_blocks - 1
            predicted = oracle.eps(u, t)[:, block]
            if block:
                known = kernel.chol()[1, 1] / kernel.cov[1, 1] * u[:, 1]
            else:
                known = kernel.chol()[0, 0] * u[:, 0]
            row[name] = float((predicted - known).square().mean().sqrt())
        rows.append(row)
    return rows


def draw(rows, learned, stem):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, process in zip(axes, PROCESSES, strict=False):
        for label in SAMPLERS:
            points = [r for r in rows if r["process"] == process and r["sampler"] == label]
            if points:
                axis.loglog(
                    [r["calls"] for r in points],
                    [max(abs(r["spread"] - 1), 1e-3) for r in points],
                    "o-",
                    ms=3,
                    label=label,
                )
        axis.set_title(f"{process}: error of the modes' width, 25 Gaussians")
        axis.set_xlabel("network calls")
        axis.set_ylabel("|width / true width - 1|")
        axis.set_ylim(1e-3, 1e2)
        axis.legend(fontsize=7)
    for name in PROCESSES:
        axes[2].plot([r["t"] for r in learned], [r[name] for r in learned], label=name)
    axes[2].set_title("noise left to learn, per dimension")
    axes[2].set_xlabel("t")
    axes[2].legend()
    figure.savefig(f"{stem}.png", dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=10_000, help="samples per distance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="path without suffix")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, floor = distances(args.num, args.seed)
    learned = to_learn()
    means = {name: sum(r[name] ** 2 for r in learned) / len(learned) for name in PROCESSES}
    angle = float(rotation_angle(PROCESSES["CLD"], torch.ones(1, dtype=torch.float64)))
    print("mean square left to learn:", {k: round(v, 4) for k, v in means.items()})
    print(f"the noise turns by {angle:.2f} rad between t = 0 and 1")
    result = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "num": args.num,
        "floor": floor,
        "distances": rows,
        "to_learn": learned,
        "angle": angle,
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.picture:
        draw(rows, learned, args.picture)


if __name__ == "__main__":
    main()
