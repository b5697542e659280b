"""Train the bundled digit classifier and write it with the reference statistics of MNIST.

    python benchmarks/fit_digit_classifier.py --data DATA_FOLDER --out src/trilemma/zoo

The data folder holds train.parquet and test.parquet with columns image ({bytes}) and label, as the
Hub's `mnist` does. One CPU thread needs about eight minutes for 24 epochs. The same seed gives the
same weights on the same torch build and processor.
"""

import argparse
import datetime
import hashlib
import io
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from trilemma.metrics.digits import CLASSIFIER_FILE, REFERENCE_FILE, DigitNet
from trilemma.metrics.frechet import gaussian_stats

NUISANCES = 7
LICENCE = "MNIST: LeCun, Cortes, Burges; CC BY-SA 3.0"


def read(path: Path) -> tuple[Tensor, Tensor]:
    """Return the images, uint8 (n, 1, 28, 28), and the labels, int64 (n)."""
    table = pq.read_table(path)
    cells = table.column("image").to_pylist()
    images = np.stack([np.array(Image.open(io.BytesIO(cell["bytes"]))) for cell in cells])
    labels = torch.tensor(table.column("label").to_pylist(), dtype=torch.int64)
    return torch.from_numpy(images)[:, None], labels


def disturb(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move, turn, slant, scale, blur and soil images in [0, 1]; return what was done, (n, 7)."""
    n = len(images)
    draw = torch.rand(n, NUISANCES, generator=rng) * 2 - 1
    shift, angle, log_scale = draw[:, :2] * 4 / 28, draw[:, 2] * 0.21, draw[:, 3] * 0.14
    slant, blur = draw[:, 4] * 0.2, draw[:, 5].clamp_min(0)
    noise = 0.25 * draw[:, 6].clamp_min(0)
    cos, sin, scale = angle.cos(), angle.sin(), log_scale.exp()
    rows = [torch.stack([cos * scale, (slant - sin) * scale, shift[:, 0]], 1)]
    rows.append(torch.stack([sin * scale, cos * scale, shift[:, 1]], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    soft = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1)), 3, 1)
    moved = torch.lerp(moved, soft, blur[:, None, None, None])
    dirt = torch.randn(moved.shape, generator=rng) * noise[:, None, None, None]
    done = torch.cat([draw[:, :5], blur[:, None] * 2, noise[:, None] * 8], 1)
    return (moved + dirt).clamp(0, 1), done


def fit(images: Tensor, labels: Tensor, args: argparse.Namespace) -> DigitNet:
    """Train; the averaged weights of the run are returned in evaluation mode."""
    torch.manual_seed(args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    net, side = DigitNet(), nn.Linear(64, NUISANCES)
    params = [*net.parameters(), *side.parameters()]
    steps = args.epochs * (len(images) // args.batch)
    optimiser = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=steps)
    start = time.monotonic()
    for epoch in range(args.epochs):
        order = torch.randperm(len(images), generator=rng)
        for index in order.split(args.batch):
            if len(index) < args.batch:
                break
            clean = images[index].float() / 255
            batch, done = disturb(clean, rng)
            if epoch >= args.epochs - args.calm:
                half = args.batch // 2
                batch, done[:half] = torch.cat([clean[:half], batch[half:]]), 0.0
            hidden = net.hidden(batch)
            loss = F.cross_entropy(
                net.head(torch.relu(hidden)), labels[index], label_smoothing=0.03
            )
            loss = loss + args.side_weight * F.mse_loss(side(hidden), done)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(
            f"epoch {epoch + 1} loss {loss.item():.4f} {time.monotonic() - start:.0f} s", flush=True
        )
    return net.eval()


@torch.no_grad()
def features(net: DigitNet, images: Tensor) -> Tensor:
    """Return the features of uint8 images."""
    return torch.cat([net.features(part.float() / 255) for part in images.split(1000)])


@torch.no_grad()
def accuracy(net: DigitNet, images: Tensor, labels: Tensor) -> float:
    """Return the share of correctly classified uint8 images."""
    hits = [net(part.float() / 255).argmax(1) for part in images.split(1000)]
    return (torch.cat(hits) == labels).double().mean().item()


@torch.no_grad()
def standardise(net: DigitNet, images: Tensor) -> None:
    """Set the features' centre and spread so that the given images have mean 0, variance 1."""
    hidden = features(net, images).double()
    net.center.copy_(hidden.mean(0))
    net.spread.copy_(hidden.std(0))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def header(**entries: object) -> dict[str, str]:
    """Return metadata of a safetensors file: text values only."""
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in entries.items()}


def write(net: DigitNet, data: dict[str, tuple[Tensor, Tensor]], args: argparse.Namespace) -> None:
    """Write both files of the zoo."""
    args.out.mkdir(parents=True, exist_ok=True)
    state = {k: v.contiguous() for k, v in net.state_dict().items() if "num_batches" not in k}
    score = accuracy(net, *data["test"])
    notes = header(
        architecture="DigitNet(dim=64): 28x28 grey -> 64 features -> 10 classes",
        parameters=sum(p.numel() for p in net.parameters()),
        test_accuracy=score,
        trained_on="60,000 MNIST training digits, shifted, turned, slanted, scaled, blurred, noisy",
        trained_by="benchmarks/fit_digit_classifier.py",
        epochs=args.epochs,
        seed=args.seed,
        torch=torch.__version__,
        date=datetime.date.today().isoformat(),
        licence="Apache-2.0; trained on " + LICENCE,
    )
    save_file(state, args.out / CLASSIFIER_FILE, notes)
    print(f"test accuracy {score:.4f}, {notes['parameters']} parameters")
    tensors: dict[str, Tensor] = {}
    for split, (images, _) in data.items():
        stats = gaussian_stats(features(net, images))
        tensors |= {f"{split}.mean": stats.mean, f"{split}.cov": stats.cov}
    images, labels = data["test"]
    pick = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:512].sort()[0]
    tensors |= {"images": images[pick].contiguous(), "labels": labels[pick].to(torch.uint8)}
    notes = header(
        what="features' mean and covariance of all training and test digits; 512 test digits",
        train_samples=len(data["train"][0]),
        test_samples=len(images),
        pick="torch.randperm(10000), generator seed 0, first 512, sorted",
        classifier_sha256=sha256(args.out / CLASSIFIER_FILE),
        date=datetime.date.today().isoformat(),
        licence=LICENCE,
    )
    save_file(tensors, args.out / REFERENCE_FILE, notes)
    for name in (CLASSIFIER_FILE, REFERENCE_FILE):
        (args.out / name).chmod(0o644)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="train.parquet and test.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the two files")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--calm", type=int, default=4, help="last epochs, half of it undisturbed")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--side-weight", type=float, default=0.1)
    parser.add_argument("--limit", type=int, default=None, help="training digits, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    data = {split: read(args.data / f"{split}.parquet") for split in ("train", "test")}
    if args.limit:
        data["train"] = (data["train"][0][: args.limit], data["train"][1][: args.limit])
    net = fit(*data["train"], args)
    standardise(net, data["train"][0])
    write(net, data, args)


if __name__ == "__main__":
    main()
