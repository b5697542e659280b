"""What a run may be given: trackers, compiled networks, half precision, accumulation."""

import functools
import json
import os
import subprocess
import sys
import types

import pytest
import runs
import torch
from accelerate import tracking
from accelerate.state import AcceleratorState
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_method_laws import PointVAE
from torch import nn

from trilemma.checkpoints import store
from trilemma.errors import ConfigError
from trilemma.methods import DDPM, LSGM, Likelihood
from trilemma.networks import PointScore
from trilemma.training import Adam, Trainer
from trilemma.training.trackers import PACKAGES, settings

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
LATENT = {"autoencoder": Adam(**runs.CUT), "prior": Adam(**runs.CUT, clip_norm=0.05)}
"""Two optimisers in one phase, of which one clips."""


def fit(kind, out, num_steps=6, *, trainer=None, method=None, resume=False, config=None, **options):
    """One run in this process; returns the method, with its trained networks."""
    if kind == "latents":
        options = {"optimizers": LATENT, **options}
    method = method or make(kind)
    data = runs.make_data("points" if kind == "latents" else kind)
    make_trainer = trainer or runs.make_trainer
    assert make_trainer(num_steps, **options).fit(method, data, out, resume=resume, config=config)
    return method


def make(kind):
    if kind != "latents":
        return runs.make_method(kind)
    torch.manual_seed(0)
    autoencoder = PointVAE()
    autoencoder.encoder[1] = nn.Identity()  # no statistics of the batch, which is accumulated
    return LSGM(autoencoder, DDPM(PointScore(3, width=16), weight=Likelihood()))


def close(found, expected, tolerance):
    """The logged losses of two runs agree."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, **tolerance)


@pytest.fixture
def one_precision():
    """Accelerate keeps one precision per process: forget it before and after."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


# ------------------------------------------------------------------------ trackers


@pytest.mark.parametrize("name", ["nope", "TensorBoard", "all"])
def test_an_unknown_tracker_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match=f"unknown tracker '{name}'; choose among .*wandb"):
        runs.make_trainer(trackers=["tensorboard", name])


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    data = runs.make_data("images")
    with pytest.raises(ConfigError, match=rf"{name} is not installed: pip install {name[:4]}"):
        runs.make_trainer(trackers=[name]).fit(runs.make_method("images"), data, tmp_path)
    assert data.calls == 0
    assert not list(tmp_path.iterdir())


def test_accelerate_knows_every_tracker_that_is_offered():
    assert set(PACKAGES) <= {str(name) for name in tracking.LOGGER_TYPE_TO_CLASS}


CONFIG = {
    "method": {
        "class_path": "DDGAN",
        "init_args": {"num_steps": 4, "process": {"class_path": "VP", "init_args": {"a": 0.1}}},
    },
    "trainer": {"optimizers": {"generator": {"adam_betas": [0.5, 0.9]}}, "final": None},
}
FLAT = {
    "method": "DDGAN",
    "method.num_steps": 4,
    "method.process": "VP",
    "method.process.a": 0.1,
    "trainer.optimizers.generator.adam_betas": "[0.5, 0.9]",
    "trainer.final": None,
}


def test_settings_have_the_names_of_the_command_line():
    assert settings(CONFIG) == FLAT


def test_tensorboard_shows_losses_once_against_images_and_the_settings(tmp_path):
    """Also after a run that was killed after its checkpoint and resumed from it."""
    options = {"trackers": ["tensorboard"], "config": CONFIG}
    fit("points", tmp_path, 8, **options)
    newest = sorted((tmp_path / "checkpoints").glob("*.safetensors"))[-1]
    assert newest.name == "step-000000008.safetensors"
    newest.unlink()  # as if killed between step 4's checkpoint and that of step 8
    (tmp_path / "log.jsonl").unlink()
    fit("points", tmp_path, 12, resume=True, **options)
    events = EventAccumulator(str(tmp_path / "trilemma")).Reload()
    for name in ("generator/loss", "discriminator/real", "discriminator/fake", "discriminator/r1"):
        assert [event.step for event in events.Scalars(name)] == [16 * n for n in range(1, 13)]
        logged = [line[name] for line in runs.losses(tmp_path)]
        assert [event.value for event in events.Scalars(name)][4:] == pytest.approx(logged)
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.split() == " ".join(f"{key}: {value}" for key, value in FLAT.items()).split()


class Records:
    """Stands in for the package wandb, as accelerate calls it: records by identifier."""

    def __init__(self):
        self.records, self.fails = {}, False
        self.config = types.SimpleNamespace(update=self.configure)

    def init(self, project, name, id=None, resume=None):
        if self.fails:
            raise RuntimeError("no server\nat all")
        assert project == "trilemma"
        assert resume == (None if id is None else "allow")
        identifier = id or f"record-{len(self.records)}"
        record = self.records.setdefault(identifier, {"name": name, "losses": [], "open": True})
        self.current = record
        return types.SimpleNamespace(
            id=identifier,
            log=lambda values, step: record["losses"].append((step, values["generator/loss"])),
            finish=lambda: record.update(open=False),
        )

    def configure(self, values, allow_val_change):
        assert allow_val_change
        self.current["config"] = values


@pytest.fixture
def records(monkeypatch):
    service = Records()
    monkeypatch.setitem(sys.modules, "wandb", service)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])
    return service


def test_a_resumed_run_goes_on_in_its_record(tmp_path, records):
    options = {"trackers": ["wandb"], "config": CONFIG}
    fit("points", tmp_path / "one", 4, **options)
    fit("points", tmp_path / "two", 4, **options)
    fit("points", tmp_path / "one", 8, resume=True, **options)
    logged = [line["generator/loss"] for line in runs.losses(tmp_path / "one")]
    assert records.records == {
        "record-0": {
            "name": "one",
            "losses": [(16 * (n + 1), loss) for n, loss in enumerate(logged)],
            "config": FLAT,
            "open": False,
        },
        "record-1": {**records.records["record-1"], "name": "two"},
    }
    assert len(logged) == 8
    assert len(records.records["record-1"]["losses"]) == 4


def test_a_tracker_that_does_not_start_is_one_error(tmp_path, records):
    records.fails = True
    with pytest.raises(ConfigError, match=r"\['wandb'\] did not start: no server"):
        fit("points", tmp_path, trackers=["wandb"])
    assert not (tmp_path / "checkpoints").exists()


def test_records_are_closed_after_an_error(tmp_path, records):
    data = runs.make_data("images")
    data.on_fetch = lambda call, x0: x0 * float("nan")
    with pytest.raises(ArithmeticError):
        runs.make_trainer(trackers=["wandb"]).fit(runs.make_method("images"), data, tmp_path)
    assert records.records["record-0"]["open"] is False


# ---------------------------------------------------------------- compiled networks


def test_compiled_runs_compute_what_others_compute_and_resume_each_other(tmp_path):
    """With a gradient penalty at every step, the derivative of a derivative.

    In a process of its own, without the suite's type checks, which cannot be traced. The backend
    generates no code; tracing and derivatives are those of the real thing.
    """
    fit("points", tmp_path / "whole", 12)
    fit("points", tmp_path / "parts", 4)
    entry = {"kind": "points", "out": str(tmp_path / "parts"), "resume": True}
    entry |= {"backend": "aot_eager", "trainer": {"num_steps": 8, "compile": True}}
    command = [sys.executable, runs.__file__, json.dumps(entry)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    finished, graphs = done.stdout.splitlines()[-2:]
    assert finished == "finished True"
    assert int(graphs.removeprefix("graphs ")) >= 3
    fit("points", tmp_path / "parts", 12, resume=True)
    close(runs.losses(tmp_path / "parts"), runs.losses(tmp_path / "whole"), {"abs": 1e-5})
    found, expected = (runs.final_state(tmp_path / name) for name in ("parts", "whole"))
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


class Counted:
    """Stands in for the compiler: counts the calls that reach the compiled pass."""

    def __init__(self):
        self.calls = {}

    def __call__(self, function):
        name = type(function.__self__).__name__

        def compiled(*args, **kwargs):
            self.calls[name] = self.calls.get(name, 0) + 1
            return function(*args, **kwargs)

        return compiled


def test_only_calls_that_are_differentiated_twice_are_not_compiled(tmp_path, monkeypatch):
    """Per step a discriminator judges real and fake, then fake for the generator."""
    counted = Counted()
    monkeypatch.setattr(torch, "compile", counted)
    method = fit("images", tmp_path, 6, compile=True)  # a penalty at every second step
    assert not [module for module in method.modules() if "forward" in vars(module)]
    assert counted.calls == {"NCSNpp": 2 * 6, "Discriminator": 3 * 6 - 3}


def test_latents_that_an_encoder_made_are_no_leaves(tmp_path, monkeypatch):
    counted = Counted()
    monkeypatch.setattr(torch, "compile", counted)
    fit("latents", tmp_path, 6, compile=True)
    assert counted.calls["PointScore"] == 6


def test_a_compiler_that_fails_is_one_error(tmp_path, monkeypatch):
    def broken(function):
        def compiled(*args, **kwargs):
            raise torch._dynamo.exc.TorchDynamoException("no compiler found\nand much more")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        ConfigError, match=r"^PointGenerator .* here \(no compiler found\): .*false$"
    ):
        fit("points", tmp_path, compile=True)


# ------------------------------------------------------------------- half precision


def test_fp16_is_refused_on_a_cpu_before_any_work(tmp_path):
    data = runs.make_data("images")
    with pytest.raises(ConfigError, match=r"precision fp16 needs a GPU .* take bf16 or fp32$"):
        runs.make_trainer(precision="fp16").fit(runs.make_method("images"), data, tmp_path)
    assert data.calls == 0
    fit("images", tmp_path, 1)  # and the process can still train


@pytest.mark.parametrize("kind", ["images", "latents"])
def test_bf16_stays_near_float32(tmp_path, one_precision, kind):
    """bf16 has 8 bits: losses differ, by little, and weights, averages and moments are float32."""
    fit(kind, tmp_path / "fp32")
    AcceleratorState._reset_state()
    method = fit(kind, tmp_path / "bf16", precision="bf16")
    found, expected = (runs.losses(tmp_path / name) for name in ("bf16", "fp32"))
    assert found != expected
    close(found, expected, {"rel": 0.05, "abs": 0.02})
    stored = runs.final_state(tmp_path / "bf16").values()
    assert {v.dtype for v in stored if v.is_floating_point()} == {torch.float32}
    assert not [module for module in method.modules() if "forward" in vars(module)]


def test_another_precision_in_the_same_process_is_one_error(tmp_path, one_precision):
    fit("points", tmp_path / "one", 1)
    with pytest.raises(ConfigError, match="precision bf16 cannot be had here"):
        fit("points", tmp_path / "two", 1, precision="bf16")


class Scaled(Trainer):
    """A run whose losses are scaled as those of fp16 are on a GPU."""

    scale = 2.0**10
    half = False

    def _accelerator(self, out):
        accelerator = super()._accelerator(out)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=self.scale, growth_interval=3)
        if self.half:
            AcceleratorState._shared_state["_mixed_precision"] = "fp16"
            accelerator.native_amp = True
        self.scaler = accelerator.scaler
        return accelerator


def scaled(num_steps, made=None, **options):
    """The trainer of ``runs.make_trainer``, but scaled."""
    trainer = runs.make_trainer(num_steps, **options)
    trainer.__class__ = made or Scaled
    return trainer


@pytest.mark.parametrize("kind", ["images", "latents"])
def test_scaled_losses_change_nothing_where_nothing_overflows(tmp_path, kind):
    """Powers of two: the same to the bit, with clipping and with two optimisers in one phase."""
    fit(kind, tmp_path / "plain", 8)
    fit(kind, tmp_path / "scaled", 8, trainer=scaled)
    found, expected = (runs.final_state(tmp_path / name) for name in ("scaled", "plain"))
    assert not runs.differing(found, expected)
    assert runs.losses(tmp_path / "scaled") == runs.losses(tmp_path / "plain")


def header(out):
    newest = sorted((out / "checkpoints").glob("*.safetensors"))[-1]
    return store.read(newest, "training").header


@pytest.mark.parametrize("kind", ["images", "latents"])
def test_the_scale_is_resumed(tmp_path, kind):
    fit(kind, tmp_path / "whole", 8, trainer=scaled)
    fit(kind, tmp_path / "parts", 4, trainer=scaled)
    fit(kind, tmp_path / "parts", 8, trainer=scaled, resume=True)
    found, expected = header(tmp_path / "parts"), header(tmp_path / "whole")
    assert found["scaler"] == expected["scaler"]
    assert expected["scaler"]["scale"] > Scaled.scale  # it grew on the way
    ours, theirs = (runs.final_state(tmp_path / name) for name in ("parts", "whole"))
    assert not runs.differing(ours, theirs)


class Half(Scaled):
    """The arithmetic of fp16 on a CPU, where it is too slow for use."""

    half = True


@pytest.mark.parametrize(("kind", "phases"), [("images", 2), ("latents", 1)])
def test_gradients_that_overflow_leave_the_step_out(tmp_path, one_precision, kind, phases):
    """The scale halves after every phase, not after every optimiser."""

    class Huge(Half):
        scale = 2.0**60

    before = {name: value.clone() for name, value in make(kind).state_dict().items()}
    after = fit(kind, tmp_path, 2, trainer=functools.partial(scaled, made=Huge)).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert header(tmp_path)["scaler"]["scale"] == 2.0 ** (60 - 2 * phases)


def test_fp16_stays_near_float32(tmp_path, one_precision):
    """Losses, and the gradient penalty among them."""
    fit("images", tmp_path / "fp32")
    AcceleratorState._reset_state()
    fit("images", tmp_path / "fp16", trainer=functools.partial(scaled, made=Half))
    found, expected = (runs.losses(tmp_path / name) for name in ("fp16", "fp32"))
    assert found != expected
    close(found, expected, {"rel": 0.01, "abs": 2e-3})
    stored = runs.final_state(tmp_path / "fp16").values()
    assert {v.dtype for v in stored if v.is_floating_point()} == {torch.float32}


# --------------------------------------------------------------------- accumulation


def test_accumulation_with_two_optimisers_in_one_phase(tmp_path):
    """Losses and weights are those of one batch; clipping sees the whole gradient."""
    for n in (1, 4):
        fit("latents", tmp_path / str(n), accumulate=n)
    close(runs.losses(tmp_path / "4"), runs.losses(tmp_path / "1"), {"abs": 1e-4})
    found, expected = (runs.final_state(tmp_path / n) for n in ("4", "1"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["images", "latents"])
def test_accumulating_runs_resume_to_the_bit(tmp_path, kind):
    fit(kind, tmp_path / "whole", 8, accumulate=2)
    fit(kind, tmp_path / "parts", 4, accumulate=2)
    fit(kind, tmp_path / "parts", 8, accumulate=2, resume=True)
    ours, theirs = (runs.final_state(tmp_path / name) for name in ("parts", "whole"))
    assert not runs.differing(ours, theirs)


# ------------------------------------------------------------------ numbers out of range


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_samples": 0}, "num_samples=0 must be at least 1"),
        ({"num_samples": -3}, "num_samples=-3 must be at least 1"),
        ({"sample_images": -1}, "sample_images=-1 must be at least 0"),
    ],
    ids=str,
)
def test_grids_out_of_range_are_refused_before_training(options, words):
    with pytest.raises(ConfigError, match=words):
        runs.make_trainer(**options)
    assert runs.make_trainer(sample_images=0, num_samples=1).num_samples == 1
