"""On a GPU: every method trains, in every precision, resumes, and does not wait for each step."""

import copy
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import runs
import small
import torch

import trilemma
from trilemma.rng import BatchRng
from trilemma.training import Adam, Trainer

pytestmark = pytest.mark.cuda


class SameRng(BatchRng):
    """Numbers of the CPU, used where they are asked for."""

    def __init__(self, seed, num_rows, where):
        super().__init__(seed, num_rows)
        self.where = where

    def normal(self, *event):
        return super().normal(*event).to(self.where)

    def integers(self, high):
        return super().integers(high).to(self.where)


def recipes(method):
    return {name: Adam(**runs.CUT, clip_norm=1.0) for name in method.optimizer_networks()}


def fit(name, out, num_steps, made=None, *, resume=False, **options):
    """One run; returns the method, with its trained networks."""
    method = small.method_named(name)
    trainer = runs.make_trainer(num_steps, optimizers=recipes(method), **options)
    trainer.__class__ = made or Trainer
    assert trainer.fit(method, runs.make_data("images"), out, resume=resume)
    return method


def gradients(method, x0, label, where):
    """Total loss and gradient of every phase, in one vector each, and the parts."""
    for phase in method.phases:
        method.zero_grad(set_to_none=True)
        method.train_only(phase)
        rng = SameRng(7, len(x0), where)
        loss = method.loss(x0.to(where), label.to(where), phase, rng, 0)
        loss.total.backward()
        found = [p.grad.flatten() for p in method.parameters() if p.grad is not None]
        yield phase, loss.total.detach().cpu(), torch.cat(found).cpu()


@pytest.mark.parametrize("name", small.METHODS)
def test_losses_and_gradients_are_those_of_a_cpu(name, device):
    """For the same data, noise and times; in float32."""
    method = small.method_named(name).train()
    moved = copy.deepcopy(method).to(device)
    batch = runs.Pictures().fetch(range(8))
    ours = gradients(moved, batch.x0, batch.label, device)
    theirs = gradients(method, batch.x0, batch.label, torch.device("cpu"))
    for (phase, loss, gradient), (_, expected, slope) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4, msg=phase)
        assert float(slope.norm()) > 0
        assert float((gradient - slope).norm() / slope.norm()) < 2e-3, phase


PRECISIONS = [(name, precision) for name in small.METHODS for precision in ("fp32", "bf16")]
PRECISIONS += [("ddgan", "fp16"), ("lsgm", "fp16")]


@pytest.mark.parametrize(("name", "precision"), PRECISIONS)
def test_methods_train(name, precision, tmp_path, device, on_gpu):
    """Losses and weights stay finite, weights float32, and every trained network moves.

    Scaled losses of fp16 overflow until their scale is small enough, and such steps are left out.
    """
    before, steps = small.method_named(name).state_dict(), 20 if precision == "fp16" else 4
    method = fit(name, tmp_path, steps, precision=precision)
    records = runs.losses(tmp_path)
    assert [record["step"] for record in records] == list(range(1, steps + 1))
    assert all(abs(value) < 1e6 for record in records for value in record.values())
    for key, value in method.state_dict().items():
        assert value.device.type == device.type, key
        assert bool(value.isfinite().all()), key
    trained = {part for parts in method.phases.values() for part in parts}
    for part in trained:
        weights = dict(method.get_submodule(part).named_parameters(part))
        assert {value.dtype for value in weights.values()} == {torch.float32}
        moved = [not torch.equal(v.detach().cpu(), before[key]) for key, v in weights.items()]
        assert sum(moved) > len(moved) / 2, part


class Watched(Trainer):
    """A trainer whose steps, but for the first, are watched."""

    watching = None

    def _train_step(self, run, micro_batches):
        if run.step == 0:  # buffers of libraries and of the optimiser are made
            return super()._train_step(run, micro_batches)
        with self.watching():
            return super()._train_step(run, micro_batches)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["ddgan", "ddpm", "edm", "cld", "lsgm", "latent_ddgan"])
def test_a_training_step_does_not_wait_for_the_gpu(name, precision, tmp_path, waits, on_gpu):
    """Data, draws, losses, gradients, optimisers and averages, with micro-batches and mirrors."""
    watching, found = waits
    made = type("Watching", (Watched,), {"watching": staticmethod(watching)})
    fit(name, tmp_path, 4, made, precision=precision, accumulate=2, log_every=4)
    assert not found, "\n".join(f"{count} times {line}" for line, count in found.items())


@pytest.mark.parametrize("name", ["ddgan", "ddpm", "lsgm"])
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path, on_gpu):
    """To the bit where every sum has a fixed order; torch warns of those that have none."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(name, tmp_path / "whole", 6)
            fit(name, tmp_path / "parts", 3)
            fit(name, tmp_path / "parts", 6, resume=True)
    finally:
        torch.use_deterministic_algorithms(False)
    found, expected = (runs.final_state(tmp_path / part) for part in ("parts", "whole"))
    assert int(found["step"]) == 6
    loose = {str(w.message) for w in caught if "deterministic" in str(w.message)}
    if not loose:
        assert not runs.differing(found, expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=f"{key} {loose}")


def test_the_scale_of_half_precision_is_resumed(tmp_path, on_gpu):
    fit("ddgan", tmp_path / "whole", 6, precision="fp16")
    fit("ddgan", tmp_path / "parts", 3, precision="fp16")
    fit("ddgan", tmp_path / "parts", 6, precision="fp16", resume=True)
    found, expected = (runs.final_state(tmp_path / part) for part in ("parts", "whole"))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-2, atol=1e-2, msg=key)


def test_grids_of_samples_are_drawn_on_the_way(tmp_path, on_gpu):
    fit("ddpm", tmp_path, 2, sample_images=32, num_samples=4)
    assert len(list((tmp_path / "samples").glob("*.png"))) == 1


def test_compiled_networks_train_alike(tmp_path, on_gpu):
    """In processes of their own; losses differ by the order of sums."""
    if not (shutil.which("cc") or shutil.which("gcc") or os.environ.get("CC")):
        pytest.skip("torch.compile needs a C compiler, and there is none here")
    source = str(Path(trilemma.__file__).parent.parent)
    paths = [source, os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    children = []
    for name, compiled in (("plain", False), ("compiled", True)):
        options = {"num_steps": 4, "compile": compiled}
        entry = {"kind": "points", "out": str(tmp_path / name), "trainer": options}
        command = [sys.executable, runs.__file__, json.dumps(entry)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        children.append(subprocess.Popen(command, env=env, **pipes))
    for child in children:
        text, _ = child.communicate(timeout=120)
        assert child.returncode == 0, text
    found, expected = (runs.losses(tmp_path / name) for name in ("compiled", "plain"))
    assert len(found) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-3)
