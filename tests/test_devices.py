"""Nothing mixes devices, and nothing makes the host wait, checked without a GPU.

Every recipe takes a training step of each phase on a device that is pretended (``pretend.py``),
every sampler walks there, likelihoods and bounds are computed there; numbers must be the CPU's.
"""

import pytest
import torch
from pretend import pretend_gpu
from tiny import shrunk

from trilemma.config import build_recipe, recipe_names
from trilemma.errors import ConfigError
from trilemma.evaluation import likelihood
from trilemma.pipeline import Pipeline
from trilemma.rng import BatchRng
from trilemma.samplers import ODE, SAMPLERS
from trilemma.sampling import Walk, sample_indices

ALL = sorted(recipe_names())


def build(name, folder):
    config = shrunk(name, folder)
    torch.manual_seed(0)
    return build_recipe(config)


@pytest.mark.parametrize("name", ALL)
def test_a_training_step_stays_on_its_device_and_never_waits(name, tmp_path, monkeypatch):
    method, data, _ = build(name, tmp_path)
    batch = data.fetch(range(4))
    with pretend_gpu(monkeypatch) as gpu:
        method.to("cuda").train()
        x0 = batch.x0.to("cuda")
        label = None if batch.label is None else batch.label.to("cuda")
        for step in (0, 1, 2):  # some tables are copied once
            gpu.syncs.clear()
            for phase in method.phases:
                method.train_only(phase)
                loss = method.loss(x0, label, phase, BatchRng(step, 4, device="cuda"), step)
                loss.total.backward()
                assert loss.total.device.type == "cuda"
                assert all(part.device.type == "cuda" for part in loss.parts.values())
        assert gpu.syncs == []


MODELS = ("cld-mnist", "ddgan-mnist", "ddpm-mnist", "edm-mnist", "lsgm-mnist", "lsgm-mnist-cld")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", MODELS)
def test_samples_are_those_of_the_cpu_and_steps_never_wait(name, sampler, tmp_path, monkeypatch):
    method, _, _ = build(name, tmp_path)
    method.eval()
    steps = method.default_steps if name.startswith("ddgan") else 3
    final = "none" if name.startswith("ddgan") else "x0"
    chosen = ODE(rtol=1e-2, atol=1e-2) if sampler == "ode" else sampler
    walk = Walk(chosen, num_steps=steps, final=final)
    try:
        (expected,) = sample_indices(method, range(2), walk)
    except ConfigError:  # a sampler that this model refuses, as other tests say
        return
    with pretend_gpu(monkeypatch) as gpu:
        method.to("cuda")
        list(sample_indices(method, range(2), walk))  # some tables are copied once
        gpu.syncs.clear()
        (found,) = sample_indices(method, range(2), walk)
        assert found.data.device.type == "cuda"
        syncs = [line for line in gpu.syncs if not line.startswith("cpu in sampling")]
        torch.testing.assert_close(found.data.cpu(), expected.data, rtol=1e-4, atol=1e-4)
    if sampler != "ode":  # which chooses its steps on the host
        assert syncs == []


@pytest.mark.parametrize("name", ["cld-toy", "ddpm-mnist", "lsgm-mnist", "lsgm-table", "vae-mnist"])
def test_likelihoods_are_those_of_the_cpu(name, tmp_path, monkeypatch):
    method, data, _ = build(name, tmp_path)
    pipeline = Pipeline(method, data.event_shape)
    exact = name in ("cld-toy", "lsgm-table")
    options = {"tolerance": 1e-2, "batch_size": 2, "divergence": "exact" if exact else "hutchinson"}
    expected = likelihood(pipeline, data, 4, **options)
    with pretend_gpu(monkeypatch):
        pipeline.to("cuda")
        found = likelihood(pipeline, data, 4, **options)
        torch.testing.assert_close(found.nats.cpu(), expected.nats, rtol=1e-3, atol=1e-3)


def test_the_pretended_device_behaves_like_one(monkeypatch):
    with pretend_gpu(monkeypatch) as gpu:
        here, there = torch.randn(3), torch.randn(3).to("cuda", non_blocking=True)
        assert here.device.type == "cpu"
        assert (2 * there + 1).device.type == torch.zeros(1, device="cuda").device.type == "cuda"
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        network = torch.nn.Linear(3, 2)
        network.to("cuda")
        gpu.syncs.clear()
        loss = network(there[None]).sum()
        loss.backward()
        assert network.weight.grad.device.type == "cuda"
        assert gpu.syncs == []
        float(loss.detach())
        there.cpu()
        assert len(gpu.syncs) == 2
