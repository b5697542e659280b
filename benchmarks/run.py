"""Speed of training steps and of sampling, as ratios measured in one run.

Prints JSON: images per second and peak memory of this package's CIFAR-10 networks (denoising
diffusion GAN, published sizes), beside a yardstick: the same layers in plain PyTorch, without our
layout and fusion choices. Both run the same weights, interleaved, and the best of the repeats
counts. On a CPU the share of a step of score models that is not the network, from ``overhead.py``,
is printed too.

    python benchmarks/run.py --threads 1 --batch 4 --repeats 3 > benchmarks/results/NAME.json
"""

import argparse
import datetime
import json
import platform
import resource
import time
from pathlib import Path

import overhead
import torch
import yardstick

from trilemma.checkpoints.convert import OFFICIAL_DDGAN
from trilemma.checkpoints.official_ddgan import (
    build_discriminator,
    build_generator,
)
from trilemma.methods import DDGAN
from trilemma.methods.base import channels_last
from trilemma.rng import BatchRng, SampleRng
from trilemma.samplers import Ancestral


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="compile our networks")
    parser.add_argument("--no-yardstick", action="store_true", help="measure ours alone")
    return parser.parse_args()


def best(function, repeats, device):
    """Seconds of the fastest call, after one warm-up."""
    times = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        function(i)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def make_ours(args, device):
    torch.manual_seed(0)
    generator, discriminator = build_generator(OFFICIAL_DDGAN["cifar10"]), build_discriminator({})
    for layer in generator.modules():
        # Layers that start at nothing would hide a wrong branch from the comparison of outputs.
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.std() < 1e-4:
            torch.nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
    method = DDGAN(generator, discriminator, num_steps=4, r1_weight=0.02, r1_every=15)
    method = channels_last(method.to(device))
    if args.compile:
        generator.compile()
        discriminator.compile()
    return method


def make_training(method, args, device):
    optimizers = {
        "discriminator": torch.optim.Adam(method.discriminator.parameters(), 1e-4, (0.5, 0.9)),
        "generator": torch.optim.Adam(method.generator.parameters(), 1e-4, (0.5, 0.9)),
    }
    x0 = torch.rand(args.batch, 3, 32, 32, device=device) * 2 - 1
    is_bf16 = args.precision == "bf16"

    def train(step, with_penalty):
        for phase, optimizer in optimizers.items():
            method.train_only(phase)
            with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
                rng = BatchRng(step, args.batch, device=device)
                loss = method.loss(x0, None, phase, rng, 0 if with_penalty else 1)
            loss.total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return train


def make_sampling(method, args, device):
    grid = method.grid()
    is_bf16 = args.precision == "bf16"

    def sample(seed):
        rng = SampleRng(seed, range(args.batch), device)
        u = rng.normal(1, 3, 32, 32)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            return Ancestral().run(method.denoiser(), u, grid, rng)

    return sample


def measure(name, method, args, device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    method.eval().requires_grad_(True)
    sampling = best(make_sampling(method, args, device), args.repeats, device)
    method.train()
    train = make_training(method, args, device)
    plain = best(lambda i: train(i, False), args.repeats, device)
    penalised = best(lambda i: train(i, True), args.repeats, device)
    lazy = (14 * plain + penalised) / 15
    peak = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "name": name,
        "sampling_images_per_second": round(args.batch / sampling, 3),
        "training_images_per_second": round(args.batch / lazy, 3),
        "seconds_per_step": round(plain, 3),
        "seconds_per_step_with_penalty": round(penalised, 3),
        "peak_memory_mb": round(peak / 2**20),
    }


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = args.precision != "fp32"
    torch.backends.cudnn.allow_tf32 = args.precision != "fp32"
    device = torch.device(args.device)
    ours = make_ours(args, device)
    rows = [measure("trilemma", ours, args, device)]
    if not args.no_yardstick:
        plain = yardstick.like(ours).to(device)
        assert yardstick.agree(ours, plain, device) < 1e-4
        rows.append(measure("plain PyTorch", plain, args, device))
    result = {
        "date": datetime.date.today().isoformat(),
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "torch": torch.__version__,
        "threads": args.threads,
        "batch": args.batch,
        "precision": args.precision,
        "compile": args.compile,
        "networks": "CIFAR-10 denoising diffusion GAN, 48.4 M and 12.7 M parameters, 4 calls",
        "rows": rows,
    }
    if len(rows) == 2:
        for key in ("sampling", "training"):
            first, second = (row[f"{key}_images_per_second"] for row in rows)
            result[f"{key}_ratio"] = round(first / second, 2)
    if device.type == "cpu":
        result["score_models"] = overhead.measure_all()
    print(json.dumps(result, indent=2))


def cpu_name():
    try:
        with Path("/proc/cpuinfo").open() as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor()}, {platform.machine()}"


if __name__ == "__main__":
    main()
