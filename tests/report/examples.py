"""Reports to look at and to test with: plausible figures, and pictures that are made, not drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from trilemma.metrics import Record, mnist_reference
from trilemma.report.record import Cell, Model, Report, Speed

HOSTILE = "<script>alert(1)</script>"
SHARED = {
    "num_fake": 10_000,
    "num_real": 10_000,
    "split": "train",
    "extractor": "digits",
    "weights_sha256": "eb90da10e48c5f104a112f1196544c1da3c9a7f069b2e7e8ba01b1c709e530b7",
    "preprocessing": "grey, central 28x28, divided by 255",
    "floor_num_fake": 10_000,
    "floor_num_real": 10_000,
}
DIGITS = tuple("0123456789")
REAL = (987, 1124, 993, 1022, 974, 903, 986, 1044, 975, 992)


def records(distance, error, precision, recall, density, coverage, **other):
    """Records as ``metrics.evaluate`` makes them, with the floors of real digits."""
    shared = SHARED | other
    rows = [
        ("fd_digits", distance, error, True, 0.107),
        ("precision", precision, 0.005, False, 0.866),
        ("recall", recall, 0.005, False, 0.866),
        ("density", density, None, False, 1.011),
        ("coverage", coverage, 0.004, False, 0.973),
    ]
    return tuple(
        Record(
            name=n,
            value=v,
            error=e,
            low=None if e is None else v - 1.96 * e,
            high=None if e is None else v + 1.96 * e,
            lower_is_better=low,
            floor=f,
            **shared,
        )
        for n, v, e, low, f in rows
    )


def cell(model, sampler, steps, figures, ms, *, is_default=False, counts=(), **other):
    """A cell with times at batch 1 and 64, and about 10,000 samples by class."""
    speeds = tuple(
        Speed(batch_size=b, ms_per_image=t, fastest=0.95 * t, slowest=1.1 * t, repeats=5)
        for b, t in ((1, 1.7 * ms), (64, ms))
    )
    fields = {
        "nfe": steps,
        "records": figures,
        "speed": speeds,
        "peak_memory": 41_000_000 + 10_000 * (steps or 1),
        "class_counts": tuple(counts),
        "real_class_counts": REAL if counts else (),
    }
    return Cell(
        key=f"{model}/{sampler}-{steps}",
        model=model,
        sampler=sampler,
        steps=steps,
        grid="uniform",
        is_default=is_default,
        **(fields | other),
    )


def classes(*shares):
    """Counts by class: the real ones times a share each."""
    return [round(count * share) for count, share in zip(REAL, shares, strict=True)]


def copied(share, is_flagged=False):
    """What the check for copies of training data came to."""
    return {
        "share_copied": share,
        "expected_share": 0.01,
        "low": max(0.0, share - 0.006),
        "high": share + 0.006,
        "is_flagged": is_flagged,
        "num_fake": 2000,
        "num_train": 60_000,
    }


def digits_models():
    bound = {"split": "test", "num": 500, "nfe": 468.0}
    no_likelihood = {"note": "DDGAN has no score, hence no likelihood"}
    return [
        Model(
            name="ddgan-mnist",
            where="ddgan-mnist",
            family="ddgan",
            method="DDGAN",
            num_parameters=1_097_000,
            size=4_396_552,
            sha256="a1" * 32,
            card={"data": "MNIST", "trained": "520,000 images, 35 minutes on 2 cores"},
            likelihood=no_likelihood,
        ),
        Model(
            name="ddgan-mnist-t2",
            where="runs/t2/model.safetensors",
            family="ddgan",
            method="DDGAN",
            num_parameters=1_097_000,
            size=4_396_548,
            sha256="b2" * 32,
            likelihood=no_likelihood,
        ),
        Model(
            name="gan-mnist",
            where="runs/gan/model.safetensors",
            family="gan",
            method="DDGAN",
            num_parameters=1_097_000,
            size=4_396_500,
            sha256="c3" * 32,
            likelihood=no_likelihood,
        ),
        Model(
            name="lsgm-mnist",
            where="lsgm-mnist",
            family="lsgm",
            method="LSGM",
            num_parameters=1_620_000,
            size=6_481_384,
            sha256="d4" * 32,
            likelihood=bound
            | {
                "kind": "upper bound on the NLL: negative evidence bound (NELBO)",
                "nats": 659.4,
                "nats_interval": 13.8,
                "bits_per_dim": 1.2133,
                "bits_per_dim_interval": 0.0254,
            },
        ),
        Model(
            name="ddpm-mnist",
            where="ddpm-mnist",
            family="ddpm",
            method="DDPM",
            num_parameters=750_000,
            size=3_034_368,
            sha256="e5" * 32,
            likelihood=bound
            | {
                "kind": "NLL by the probability flow, Hutchinson's estimate of the divergence",
                "nats": 1127.0,
                "nats_interval": 16.3,
                "bits_per_dim": 2.075,
                "bits_per_dim_interval": 0.030,
            },
        ),
        Model(
            name="cld-mnist",
            where="cld-mnist",
            family="cld",
            method="CLD",
            num_parameters=752_000,
            size=3_039_144,
            sha256="f6" * 32,
            likelihood=bound
            | {
                "kind": "upper bound on the NLL (velocities averaged) by the probability flow",
                "nats": 1330.0,
                "nats_interval": 157.0,
                "bits_per_dim": 2.448,
                "bits_per_dim_interval": 0.289,
            },
        ),
        Model(
            name="edm-mine",
            where="runs/edm",
            error="runs/edm holds no model.safetensors; give a run folder that has been trained",
        ),
    ]


def digits_cells():
    even = (1.02, 1.05, 0.97, 0.96, 1.01, 0.95, 1.03, 0.99, 0.98, 1.04)
    plain = (1.2, 1.9, 0.55, 0.8, 1.4, 0.35, 0.9, 1.5, 0.0, 1.1)
    return [
        cell(
            "ddgan-mnist",
            "ancestral",
            4,
            records(5.23, 0.19, 0.57, 0.72, 0.41, 0.51),
            2.2,
            is_default=True,
            counts=classes(*even),
            memorisation=copied(0.009),
        ),
        cell(
            "ddgan-mnist-t2",
            "ancestral",
            2,
            records(9.81, 0.27, 0.48, 0.61, 0.31, 0.49),
            1.15,
            is_default=True,
            counts=classes(*even[::-1]),
            memorisation=copied(0.011),
        ),
        cell(
            "gan-mnist",
            "ancestral",
            1,
            records(21.4, 0.41, 0.62, 0.21, 0.58, 0.22),
            0.61,
            is_default=True,
            counts=classes(*plain),
            memorisation=copied(0.064, True),
        ),
        cell("lsgm-mnist", "gddim", 10, records(0.86, 0.05, 0.71, 0.86, 0.68, 0.87), 6.5),
        cell(
            "lsgm-mnist",
            "gddim",
            20,
            records(0.48, 0.045, 0.75, 0.87, 0.73, 0.90),
            11.9,
            is_default=True,
            counts=classes(*even),
            memorisation=copied(0.012),
        ),
        cell("ddpm-mnist", "gddim", 20, records(2.94, 0.12, 0.58, 0.80, 0.47, 0.69), 19.3),
        cell(
            "ddpm-mnist",
            "ancestral",
            50,
            records(1.07, 0.07, 0.69, 0.84, 0.63, 0.83),
            48.2,
            is_default=True,
            counts=classes(*even[::-1]),
            memorisation=copied(0.008),
        ),
        cell("ddpm-mnist", "ancestral", 1000, records(0.75, 0.06, 0.72, 0.85, 0.69, 0.87), 953.5),
        cell("cld-mnist", "gddim", 20, records(4.12, 0.15, 0.55, 0.77, 0.42, 0.62), 21.0),
        cell(
            "cld-mnist",
            "gddim",
            50,
            records(1.79, 0.09, 0.67, 0.81, 0.59, 0.76),
            52.5,
            is_default=True,
            counts=classes(*even),
            memorisation={"note": "needs training and test data: no split 'test'"},
        ),
        Cell(
            key="cld-mnist/sscs-5",
            model="cld-mnist",
            sampler="sscs",
            steps=5,
            grid="uniform",
            is_default=False,
            error="score at t = 0.2 is not finite; draw with more steps",
        ),
    ]


def digits(folder: Path, drawn: dict[str, np.ndarray] | None = None) -> Report:
    """Six models of digits, one that did not load, one cell that failed."""
    report = Report(
        models=tuple(digits_models()),
        cells=tuple(digits_cells()),
        data={
            "name": "MNIST",
            "kind": "images",
            "split": "train",
            "event_shape": [1, 28, 28],
            "class_names": list(DIGITS),
            "length": 60_000,
        },
        settings={
            "num": 10_000,
            "seed": 0,
            "extractor": "digits",
            "likelihood_num": 500,
            "ladder": "standard",
        },
        hardware={
            "device": "cpu",
            "name": "AMD EPYC 7B13",
            "cores": 2,
            "threads": 1,
            "torch": "2.13.0",
        },
        date="2026-11-23",
        version="0.1.0",
        command="trilemma report ddgan-mnist runs/t2 runs/gan lsgm-mnist ddpm-mnist cld-mnist "
        "runs/edm --data MNIST -n 10000 --out digits",
    )
    real = mnist_reference().images.permute(0, 2, 3, 1).numpy()
    for i, one in enumerate(report.cells):
        noise = np.random.default_rng(i)
        made = real[noise.permutation(len(real))[:40]].astype(float)
        made = (made + noise.normal(0, 12 + 10 * (i == 2), made.shape)).clip(0, 255)
        samples = (drawn or {}).get(one.model, made.astype(np.uint8))
        arrays = {"samples": samples}
        if "share_copied" in one.memorisation:
            gaps = (samples[:16, None].astype(float) - real[None, 40:].astype(float)) ** 2
            arrays["closest"] = samples[:16]
            arrays["real_closest"], arrays["real_neighbours"] = real[:16], real[16:32]
            arrays["neighbours"] = real[40 + gaps.sum((2, 3, 4)).argmin(1)]
        write(folder, one, **arrays)
    return report


def points(folder: Path) -> Report:
    """Two models of 25 Gaussians, one of which misses modes."""
    shared = SHARED | {
        "num_fake": 2500,
        "num_real": 0,
        "extractor": "identity",
        "weights_sha256": "",
        "floor_num_fake": None,
        "floor_num_real": None,
    }

    def toy(model, steps, share, modes, ms, is_default):
        figures = (
            Record(name="high_quality", value=share, floor=0.989, lower_is_better=False, **shared),
            Record(name="num_modes", value=modes, floor=25, lower_is_better=False, **shared),
        )
        return cell(model, "ancestral", steps, figures, ms, is_default=is_default)

    report = Report(
        models=(
            Model(name="t4", where="runs/t4", family="ddgan", method="DDGAN"),
            Model(name="t1", where="runs/t1", family="gan", method="DDGAN"),
            Model(name="vp", where="runs/vp", family="ddpm", method="DDPM"),
        ),
        cells=(
            toy("t4", 4, 0.970, 25, 0.02, True),
            toy("t1", 1, 0.955, 15, 0.006, True),
            toy("vp", 20, 0.71, 25, 0.11, False),
            toy("vp", 100, 0.962, 25, 0.52, True),
        ),
        data={"name": "grid25", "kind": "points", "split": "train", "event_shape": [2]},
        settings={"num": 2500, "seed": 0},
        hardware={"device": "cpu", "name": "AMD EPYC 7B13", "threads": 1, "torch": "2.13.0"},
        date="2026-11-23",
        version="0.1.0",
        command="trilemma report runs/t4 runs/t1 runs/vp --data grid25 -n 2500",
    )
    axis = np.arange(-4.0, 4.1, 2.0)
    centres = np.array([(a, b) for a in axis for b in axis])
    for i, one in enumerate(report.cells):
        noise = np.random.default_rng(i)
        kept = centres[: 15 if one.model == "t1" else 25]
        wide = 0.05 if one.steps != 20 else 0.3
        drawn = kept[noise.integers(len(kept), size=2500)] + noise.normal(0, wide, (2500, 2))
        drawn[0] = 40.0
        write(folder, one, samples=(drawn / 2.8).astype(np.float32))
    return report


def pictures64(folder: Path) -> Report:
    """Two models of colour pictures with long names; one has no times, no classes, no seed."""
    report = digits(folder)
    names = ("an-extraordinarily-long-name-of-a-model-that-somebody-gave-in-a-hurry-v2-final", "b")
    old = ("lsgm-mnist", "ddpm-mnist")
    models = [
        replace(model, name=name, likelihood={})
        for model in report.models
        for name, was in zip(names, old, strict=True)
        if model.name == was
    ]
    cells = [
        replace(
            c,
            model=name,
            key=c.key.replace(was, name),
            class_counts=(),
            real_class_counts=(),
            memorisation={},
        )
        for c in report.cells
        for name, was in zip(names, old, strict=True)
        if c.model == was
    ]
    data = {"name": "emoji", "kind": "images", "split": "train", "event_shape": [3, 64, 64]}
    for i, one in enumerate(cells):
        noise = np.random.default_rng(i)
        y, x = np.mgrid[0:64, 0:64] / 64
        phase = noise.uniform(0, 6, (40, 3, 1, 1))
        waves = np.sin(6 * x + phase) * np.cos(5 * y + 2 * phase) * 127 + 128
        write(folder, one, samples=waves.transpose(0, 2, 3, 1).astype(np.uint8))
    return replace(report, models=tuple(models), cells=tuple(cells), data=data)


def one_model(folder: Path) -> Report:
    """One model with one way to draw."""
    report = digits(folder)
    return replace(report, models=report.models[:1], cells=report.cells[:1])


def all_failed(folder: Path) -> Report:
    """Nothing could be measured."""
    report = digits(folder)
    cells = [replace(c, records=(), speed=(), error="out of memory") for c in report.cells[:2]]
    return replace(report, models=(*report.models[:2], report.models[-1]), cells=tuple(cells))


def hostile(folder: Path) -> Report:
    """Names, cards, errors and the command try to become markup."""
    report = one_model(folder)
    name = HOSTILE
    model = replace(report.models[0], name=name, where=f"{name}|*x*", card={name: name})
    bad = Model(name=f"{name}2", where="x", error=f'{name} "quoted" & <b>')
    one = replace(report.cells[0], model=name, key="hostile/ancestral-4", sampler=f"a{name}")
    write(folder, one, samples=np.zeros((3, 28, 28, 1), np.uint8))
    return replace(
        report,
        models=(model, bad),
        cells=(one,),
        command=f"trilemma report '{name}' ``` | x",
        data=dict(report.data) | {"name": name, "class_names": [f"{name}{i}" for i in range(10)]},
        hardware={"name": name},
        version=f"0.1{name}",
    )


def mixed_protocols(folder: Path) -> Report:
    """One model was judged with fewer samples than the others."""
    report = digits(folder)
    few = records(0.91, 0.20, 0.74, 0.86, 0.71, 0.88, num_fake=500)
    cells = [replace(c, records=few) if c.model == "lsgm-mnist" else c for c in report.cells]
    return replace(report, cells=tuple(cells))


def write(folder: Path, one: Cell, **arrays) -> None:
    """Write the pictures of a cell."""
    path = folder / one.pictures
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
