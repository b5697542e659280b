"""Tiny training runs, shared by the tests and by the processes that they start.

As a script, ``python runs.py JSON`` makes one run; see ``main``.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from pathlib import Path

import torch
from PIL import Image

from trilemma.autoencoders import TableVAE
from trilemma.checkpoints import store
from trilemma.data import Batch, Data, HubImages, Toy
from trilemma.methods import DDGAN, DDPM, LSGM, UniformTimes
from trilemma.methods.base import Method
from trilemma.networks import (
    Discriminator,
    NCSNpp,
    PointDiscriminator,
    PointGenerator,
    PointScore,
)
from trilemma.training import Adam, Trainer

CUT = {"lr": 2e-3, "adam_betas": (0.5, 0.9), "eps": 1e-4}
"""A large eps, so that Adam does not turn the rounding of vanishing gradients into whole steps."""
LATENTS = {"autoencoder": Adam(**CUT), "prior": Adam(**CUT)}
"""Optimisers of latent models."""


class Pictures(Data):
    """Random labelled pictures that may be mirrored; ``on_fetch`` sees every call."""

    num_classes = 3
    event_shape = (1, 8, 8)
    flip = True

    def __init__(self, num: int = 48) -> None:
        generator = torch.Generator().manual_seed(11)
        self.images = torch.randint(0, 256, (num, 1, 8, 8), generator=generator).to(torch.uint8)
        self.calls = 0
        self.on_fetch = None

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices) -> Batch:
        self.calls += 1
        index = torch.as_tensor(indices)
        x0 = self.images[index].float() / 127.5 - 1
        if self.on_fetch is not None:
            x0 = self.on_fetch(self.calls, x0)
        return Batch(x0, index % 3)

    def images_uint8(self, indices):
        return self.images[torch.as_tensor(indices)]

    def split(self, name):
        return self


def make_method(kind: str, dropout: float = 0.0, seed: int = 0) -> Method:
    """A method of a few thousand weights, the same ones for the same seed."""
    torch.manual_seed(seed)
    if kind == "points":
        return DDGAN(
            PointGenerator(width=24, num_layers=2), PointDiscriminator(width=24, num_layers=2)
        )
    if kind == "latents":
        return make_latents(dropout)
    generator = NCSNpp(
        8,
        1,
        channels=4,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        input_pyramid="residual",
        code_dim=4,
        style_dim=8,
        num_mapping_layers=1,
        num_classes=3,
        tanh=True,
        dropout=dropout,
    )
    discriminator = Discriminator(
        1, channels=4, embed_dim=8, widths=(1, 2), downs=(False, True), num_classes=3
    )
    for parameter in (*generator.parameters(), *discriminator.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    return DDGAN(generator, discriminator, num_steps=2, r1_weight=0.5, r1_every=2)


def make_latents(dropout: float = 0.0, *, averaged: bool = True) -> LSGM:
    """Points behind two latents, whose autoencoder sees the prior's averages."""
    network = PointScore(2, width=24, num_layers=3)
    network.layers[0] = torch.nn.Sequential(network.layers[0], torch.nn.Dropout(dropout))
    autoencoder = TableVAE((0, 0), latent_dim=2, width=24, dropout=dropout)
    return LSGM(autoencoder, DDPM(network), times=UniformTimes(), averaged_prior=averaged)


def write_stream(folder: Path) -> HubImages:
    """Two files of unlike length: processes that read one each come to the end at other times."""
    import datasets

    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    pictures = [Image.fromarray(p) for p in Pictures(56).images.numpy()[:, 0]]
    folder.mkdir(parents=True, exist_ok=True)
    for i, rows in enumerate((range(16), range(16, 56))):
        table = {"image": [pictures[j] for j in rows], "label": [j % 3 for j in rows]}
        table = datasets.Dataset.from_dict(table, features=datasets.Features(columns))
        table.to_parquet(str(folder / f"train-{i}.parquet"))
    return read_stream(folder)


def read_stream(folder: Path | str) -> HubImages:
    return HubImages(str(folder), channels=1, streaming=True)


def make_data(kind: str, folder: str = "") -> Data:
    if kind == "stream":
        return read_stream(folder)
    return Pictures() if kind == "images" else Toy("grid25", num_points=512)


def make_trainer(num_steps: int = 12, **options) -> Trainer:
    settings = {
        "batch_size": 16,
        "ema_decay": 0.9,
        "log_every": 1,
        "save_images": 64,
        "sample_images": 0,
        "trackers": [],
        **options,
    }
    recipes = settings.pop("optimizers", None) or {
        "discriminator": Adam(**CUT),
        "generator": Adam(**CUT, decay_images=512, final_lr=1e-4, warmup_images=32),
    }
    return Trainer(recipes, num_steps * settings["batch_size"], **settings)


def final_state(out) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint of a run: weights, averages, moments."""
    newest = sorted((Path(out) / "checkpoints").glob("step-*.safetensors"))[-1]
    stored = store.read(newest, "training")
    return {**stored.tensors, "step": torch.tensor(stored.header["step"])}


def losses(out) -> list[dict[str, float]]:
    """Logged losses, one record per line."""
    lines = (Path(out) / "log.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if "/" in k or k == "step"} for line in lines
    ]


def differing(first: dict, second: dict) -> list[str]:
    """Names whose tensors are not equal bit for bit."""
    assert set(first) == set(second)
    return [name for name in first if not torch.equal(first[name], second[name])]


def main(entry: dict) -> None:
    """Make a run.

    ``term_at`` sends SIGTERM to process 0 while it fetches the data of a step; ``backend`` is that
    of ``torch.compile``.
    """
    torch.set_num_threads(1)
    signal.alarm(90)  # processes that wait for each other for ever end themselves
    kind, data = entry["kind"], make_data(entry["kind"], entry.get("data", ""))
    if "term_at" in entry and os.environ.get("RANK", "0") == "0":

        def stop(call, x0):
            if call == entry["term_at"]:
                signal.raise_signal(signal.SIGTERM)
            return x0

        data.on_fetch = stop
    if "backend" in entry:
        torch.compile = functools.partial(torch.compile, backend=entry["backend"])
    recipes = LATENTS if kind == "latents" else None
    trainer = make_trainer(optimizers=recipes, **entry.get("trainer", {}))
    method = make_method(kind, entry.get("dropout", 0.0))
    finished = trainer.fit(method, data, entry["out"], resume=entry.get("resume", False))
    print(f"finished {finished}", flush=True)
    if "backend" in entry:
        print(f"graphs {torch._dynamo.utils.counters['stats']['unique_graphs']}", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
