"""Do other classifiers rank the models as ours does?

    python benchmarks/ranking.py gan-mnist ddpm-mnist --data MNIST --num 2000 --json FILE

Every model draws its digits once, with its own defaults. The Fréchet distance to training digits is
taken in the features of the bundled classifier, of classifiers made here for the purpose (plain
convolutions, cross entropy, shifted digits; nothing of the library's, one per seed), and of files
that ``trilemma features`` wrote. Two models are *told apart* where their distances differ by more
than both 95 % intervals together; the pairs that all features tell apart, and those on which
features contradict each other, are counted.
"""

import argparse
import datetime
import itertools
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from trilemma import load
from trilemma.data import HubImages
from trilemma.images import to_uint8
from trilemma.metrics import FeatureExtractor, evaluate, extractor_named


class PlainClassifier(FeatureExtractor):
    """Three convolutions and two linear layers; the features are the 128 before the last."""

    preprocessing = "divided by 255"

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.name, self.dim, self.weights_sha256 = f"plain_{seed}", 128, ""
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(64 * 49, 128), nn.ReLU()),
        )
        self.head = nn.Linear(128, 10)

    def check(self, images):
        assert images.shape[1:] == (1, 28, 28)

    def extract(self, images):
        with torch.no_grad():
            return self.body(images.float() / 255)

    def fit(self, images, labels, epochs):
        """Return the share of held-out digits, the last 5,000, that it gets right."""
        parameters = [*self.body.parameters(), *self.head.parameters()]
        rows = torch.randperm(len(images) - 5000)
        steps = epochs * (len(rows) // 128)
        optimizer = torch.optim.Adam(parameters, 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
        for step in range(steps):
            chosen = rows[torch.arange(step * 128, step * 128 + 128) % len(rows)]
            x = F.pad(images[chosen].float() / 255, (2, 2, 2, 2))
            down, right = torch.randint(5, (2,)).tolist()
            x = x[:, :, down : down + 28, right : right + 28]
            loss = F.cross_entropy(self.head(F.dropout(self.body(x), 0.3)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            guesses = self.head(self.extract(images[-5000:])).argmax(1)
        return float((guesses == labels[-5000:]).double().mean())


def compare(rows, extractors):
    """What each pair of models looks like to each extractor: -1, 0 (not told apart) or 1."""
    pairs = {}
    for first, second in itertools.combinations(rows, 2):
        seen = {}
        for name in extractors:
            a, b = rows[first][name], rows[second][name]
            gap = a["value"] - b["value"]
            is_apart = abs(gap) > math.hypot(a["half_interval"], b["half_interval"])
            seen[name] = 0 if not is_apart else (1 if gap > 0 else -1)
        pairs[f"{first} / {second}"] = seen
    return pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True, help="MNIST, as for training")
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2], help="of plain classifiers")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--extractors", nargs="*", default=["digits"], help="names or files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = HubImages(args.data, split="train", channels=1)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    real, rest = (data.images_uint8(chosen) for chosen in order[: 2 * args.num].split(args.num))
    extractors, accuracy = [extractor_named(name) for name in args.extractors], {}
    everything = data.fetch(torch.arange(len(data)))
    images = to_uint8(everything.x0)
    for seed in args.seeds:
        plain = PlainClassifier(seed)
        accuracy[plain.name] = plain.fit(images, everything.label, args.epochs)
        print(f"{plain.name}: {accuracy[plain.name]:.4f} of 5,000 held out", flush=True)
        extractors.append(plain)
    rows = {}
    for name in args.models:
        started = time.perf_counter()
        drawn = to_uint8(load(name).sample(args.num, seed=0, batch_size=100))
        rows[name] = {}
        for extractor in extractors:
            records = evaluate(drawn, real, extractor, split="train", floor_real=rest, cached=False)
            first = records[0]
            rows[name][extractor.name] = {
                "value": first.value,
                "half_interval": (first.high - first.low) / 2,
                "floor": first.floor,
            }
        shown = "  ".join(
            f"{key} {value['value']:.2f} ± {value['half_interval']:.2f}"
            for key, value in rows[name].items()
        )
        print(f"{name}: {shown} ({time.perf_counter() - started:.0f} s)", flush=True)
    names = [extractor.name for extractor in extractors]
    pairs = compare(rows, names)
    settled = [pair for pair, seen in pairs.items() if len(set(seen.values()) - {0}) == 1]
    disputed = [pair for pair, seen in pairs.items() if len(set(seen.values()) - {0}) == 2]
    for name in names:
        print(f"{name}: {', '.join(sorted(rows, key=lambda m: rows[m][name]['value']))}")
    print(f"{len(settled)} of {len(pairs)} pairs are told apart one way; disputed: {disputed}")
    if args.json:
        result = {
            "date": datetime.date.today().isoformat(),
            "torch": torch.__version__,
            "num": args.num,
            "accuracy": accuracy,
            "rows": rows,
            "pairs": pairs,
            "settled": len(settled),
            "disputed": disputed,
        }
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
