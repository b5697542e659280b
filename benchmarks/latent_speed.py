"""Speed of a published latent model, of its full size: a training step and a function evaluation.

    python benchmarks/latent_speed.py --config mnist --batch 16 --threads 1 --json FILE

The training step is that of the recipe: autoencoder and prior in one pass, penalties, optimisers
and averages. The function evaluation is one call of the prior's network for the whole batch.
Best of ``--repeats``.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from trilemma.checkpoints.official_lsgm import OFFICIAL_LSGM
from trilemma.config import build_method, load_recipe
from trilemma.methods.base import channels_last
from trilemma.rng import BatchRng
from trilemma.training import EMA, Adam

RECIPES = {"mnist": "lsgm-mnist-nvae", "omniglot": "lsgm-omniglot"}


def best(function, repeats):
    times = []
    for i in range(repeats + 1):  # the first one warms up
        started = time.perf_counter()
        function(i)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="mnist", choices=sorted(RECIPES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    assert options.config in OFFICIAL_LSGM
    method = channels_last(build_method(load_recipe(RECIPES[options.config])["method"])).train()
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in method.named_children()}
    x0 = torch.rand(options.batch, *method.event_shape) * 2 - 1
    phase = next(iter(method.phases))
    method.train_only(phase)
    steppers = {
        key: Adam(lr=1e-4, weight_decay=3e-4).build(
            [p for name in names for p in method.get_submodule(name).parameters()]
        )
        for key, names in method.optimizer_networks().items()
    }
    averages = {name: EMA(method.get_submodule(name)) for name in method.averaged}

    def step(i):
        method.loss(x0, None, phase, BatchRng(i, options.batch), i).total.backward()
        for optimizer in steppers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, average in averages.items():
            average.update(method.get_submodule(name))

    training = best(step, options.repeats)
    method.eval()
    denoiser = method.denoiser()
    u = torch.randn(options.batch, 1, *method.state_shape)
    with torch.inference_mode():
        evaluation = best(lambda i: denoiser.eps(u, 0.5), options.repeats)
    found = {
        "config": options.config,
        "batch": options.batch,
        "threads": options.threads,
        "torch": torch.__version__,
        "parameters": sizes,
        "training_step_seconds": training,
        "function_evaluation_seconds": evaluation,
    }
    print(json.dumps(found, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
