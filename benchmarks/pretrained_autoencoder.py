"""Train a small AutoencoderKL of diffusers on digits, as others would, apart from the library.

    python benchmarks/pretrained_autoencoder.py --data MNIST --out runs/autoencoder-mnist

The loss is that of autoencoders for latent diffusion (Rombach et al., 2022) without a judge: the
absolute error summed over an image, and a small weight times the divergence of the latents from a
standard normal law, in nats. The folder is what ``save_pretrained`` writes, with a scaling factor
of one over the latents' standard deviation; the recipe lsgm-mnist-pretrained takes it. One CPU
thread needs about eight minutes.
"""

import argparse
import datetime
import json
import time
from pathlib import Path

import diffusers
import torch

from trilemma.data import HubImages
from trilemma.images import to_uint8
from trilemma.metrics import evaluate, extractor_for


def network(args):
    """28 x 28 grey digits, 4 x 7 x 7 latents."""
    return diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=args.channels,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=28,
    )


def loss(net, x0, kl_weight, rng):
    """Mean over images of absolute errors and divergence."""
    law = net.encode(x0).latent_dist
    decoded = net.decode(law.sample(generator=rng)).sample
    return ((decoded - x0).abs().sum((1, 2, 3)) + kl_weight * law.kl()).mean()


def train(data, args):
    """The network, and its seconds of training: of the processor, and by the clock."""
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    net = network(args)
    optimiser = torch.optim.Adam(net.parameters(), args.lr)
    steps = args.num_images // args.batch
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    start, worked = time.monotonic(), time.process_time()
    order = torch.randperm(len(data), generator=rng)
    for step in range(steps):
        if len(order) < args.batch:
            order = torch.randperm(len(data), generator=rng)
        now, order = order[: args.batch], order[args.batch :]
        error = loss(net, data.fetch(now).x0, args.kl_weight, rng)
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 100.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 199 or step == steps - 1:
            spent = time.monotonic() - start
            seen = (step + 1) * args.batch
            print(f"{seen} images, loss {error.item():.2f}, {spent:.0f} s", flush=True)
    seconds = {
        "training_cpu_seconds": round(time.process_time() - worked, 1),
        "training_seconds": round(time.monotonic() - start, 1),
    }
    return net.eval(), seconds


@torch.no_grad()
def scale(net, data, num=10_000):
    """Write the scaling factor; what the latents of training digits were without it."""
    rng = torch.Generator().manual_seed(0)
    laws = [net.encode(data.fetch(i).x0).latent_dist for i in torch.arange(num).split(500)]
    latents = torch.cat([law.sample(generator=rng) for law in laws])
    spread = latents.std().item()
    net.register_to_config(scaling_factor=1 / spread)
    return {
        "latent_mean": latents.mean().item(),
        "latent_std": spread,
        "posterior_std": torch.cat([law.std for law in laws]).mean().item(),
        "scaling_factor": 1 / spread,
    }


@torch.no_grad()
def judge(net, data):
    """Errors of all digits of a split, decoded from the means; pixels in [-1, 1]."""
    absolute, square, kl = 0.0, 0.0, 0.0
    for index in torch.arange(len(data)).split(500):
        x0 = data.fetch(index).x0
        law = net.encode(x0).latent_dist
        error = (net.decode(law.mean).sample.clamp(-1, 1) - x0).double()
        absolute += error.abs().mean((1, 2, 3)).sum().item()
        square += error.square().mean((1, 2, 3)).sum().item()
        kl += law.kl().sum().item()
    num = len(data)
    return {
        "num_test": num,
        "absolute_error": absolute / num,
        "rms_error": (square / num) ** 0.5,
        "kl_nats": kl / num,
    }


@torch.no_grad()
def distance(net, train_data, test_data, num=2000):
    """Distance of decoded test digits from training digits; the floor is theirs before."""
    rng = torch.Generator().manual_seed(0)
    real = train_data.images_uint8(torch.randperm(len(train_data), generator=rng)[:num])
    index = torch.randperm(len(test_data), generator=rng)[:num]
    decoded = [
        net.decode(net.encode(test_data.fetch(i).x0).latent_dist.mean).sample
        for i in index.split(500)
    ]
    records = evaluate(
        to_uint8(torch.cat(decoded)),
        real,
        extractor_for(real),
        split="train",
        floor_real=test_data.images_uint8(index),
    )
    found = next(r for r in records if r.name == "fd_digits")
    return {"fd_digits": found.value, "fd_digits_floor": found.floor, "num_decoded": num}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="MNIST, as for training")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--num-images", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--kl-weight", type=float, default=0.01)
    parser.add_argument("--channels", type=int, nargs=3, default=[16, 32, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = HubImages(args.data, split="train", channels=1)
    test_data = data.split("test")
    net, seconds = train(data, args)
    result = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "threads": args.threads,
        "seed": args.seed,
        "kl_weight": args.kl_weight,
        "num_images": args.num_images // args.batch * args.batch,
        **seconds,
        "parameters": sum(p.numel() for p in net.parameters()),
        **scale(net, data),
        **judge(net, test_data),
        **distance(net, data, test_data),
    }
    net.save_pretrained(args.out)
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
