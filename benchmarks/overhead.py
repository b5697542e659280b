"""Share of a sampling step that is not the network, and seconds per network call.

Two networks: the published CIFAR-10 network of Langevin diffusion and the one of ``cld-mnist``. A
run with the network and a run with one that returns at once are timed; their quotient is the share
of everything else: coefficients, updates, random numbers. Prints JSON.

    python benchmarks/overhead.py --threads 1 > benchmarks/results/NAME.json
"""

import argparse
import datetime
import json
import platform
import time

import torch

from trilemma.checkpoints.official_cld import OFFICIAL_CLD, build_network
from trilemma.config import build_method, load_recipe, resolve
from trilemma.methods import CLDSGM
from trilemma.methods.base import channels_last, prior_sample
from trilemma.processes import CLD
from trilemma.rng import SampleRng
from trilemma.samplers import GDDIM, SSCS, EulerMaruyama

SAMPLERS = {"euler_maruyama": EulerMaruyama(), "sscs": SSCS(), "gddim": GDDIM(num_history=3)}


def seconds(method, sampler, batch, steps, repeats=2):
    """Best wall time of a whole run."""
    best = float("inf")
    for _ in range(repeats):
        rng = SampleRng(0, range(batch))
        u = prior_sample(method.process, method.event_shape, rng)
        started = time.perf_counter()
        sampler.run(method.denoiser(), u, method.grid(steps), rng)
        best = min(best, time.perf_counter() - started)
    return best


def measure(name, method, batch, steps):
    network, rows = method.network, []
    output = torch.zeros(batch, *method.event_shape)
    for label, sampler in SAMPLERS.items():
        whole = seconds(method, sampler, batch, steps)
        denoiser = method.denoiser
        method.denoiser = lambda *a, made=denoiser, **k: _without_network(made(*a, **k), output)
        rest = seconds(method, sampler, batch, steps, repeats=4)
        method.denoiser = denoiser
        rows.append(
            {
                "sampler": label,
                "seconds_per_image_and_call": whole / batch / steps,
                "share_outside_network": rest / whole,
            }
        )
    size = sum(p.numel() for p in network.parameters())
    return {"network": name, "parameters": size, "batch": batch, "steps": steps, "rows": rows}


def _without_network(denoiser, output):
    denoiser.network = lambda *arguments: output
    return denoiser


def measure_all(only=None):
    """Rows of both networks, or of one."""
    results = []
    if only != "mnist":
        method = CLDSGM(build_network(OFFICIAL_CLD["cifar10"]), CLD(jitter=1e-9))
        results.append(measure("cld-cifar10", channels_last(method.eval()), 4, 4))
    if only != "cifar10":
        method = build_method(resolve(load_recipe("cld-mnist"))["method"])
        results.append(measure("cld-mnist", channels_last(method.eval()), 64, 20))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["cifar10", "mnist"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "machine": platform.processor() or platform.machine(),
                "torch": torch.__version__,
                "threads": args.threads,
                "results": measure_all(args.only),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
