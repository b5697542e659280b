"""The recipe for 25 Gaussians, with smaller networks and a shorter run, finds the modes."""

import pytest
import torch

from trilemma.config import build_recipe, load_recipe, override, resolve
from trilemma.evaluation import evaluate_samples
from trilemma.pipeline import Pipeline, load, save_pipeline

STEPS, BATCH = 900, 256
SMALLER = {
    "method.generator.width": 128,
    "method.discriminator.width": 128,
    "trainer.batch_size": BATCH,
    "trainer.num_images": STEPS * BATCH,
    "trainer.save_images": STEPS * BATCH,
    "trainer.trackers": "[]",
    "trainer.optimizers.generator.lr": 2e-3,
    "trainer.optimizers.generator.decay_images": STEPS * BATCH,
    "trainer.optimizers.discriminator.lr": 2e-3,
    "trainer.optimizers.discriminator.decay_images": STEPS * BATCH,
}


def train(folder, seed) -> dict[str, float]:
    """Train, and count modes and the share of samples near one, 2,500 samples."""
    config = load_recipe("ddgan-25gaussians")
    for key, value in {**SMALLER, "trainer.seed": seed}.items():
        override(config, key, str(value))
    config = resolve(config)
    torch.manual_seed(seed)
    method, data, trainer = build_recipe(config)

    def export(path, averaged):
        save_pipeline(path, averaged, config["method"], data.event_shape)

    assert trainer.fit(method, data, folder, config=config, export=export)
    model: Pipeline = load(folder / "model.safetensors")
    records = evaluate_samples(model, data, 2500, split="train", batch_size=2500)
    return {record.name: record.value for record in records}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_four_steps_find_the_modes(tmp_path):
    found = train(tmp_path / "run", seed=0)
    assert found["num_modes"] >= 23
    assert found["high_quality"] >= 0.4
