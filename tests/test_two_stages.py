"""From a first stage to a latent model, and tables, all on the command line."""

import csv
import json

import pytest
import torch
import yaml
from test_cli import fails
from test_commands import run
from tiny import TRAINER, write_pictures

from trilemma.checkpoints import store
from trilemma.config import load_recipe, override

SMALL = {
    "method.autoencoder.image_size": 8,
    "method.autoencoder.channels": 4,
    "method.autoencoder.num_blocks": 1,
    "method.autoencoder.latent_channels": 2,
}
PRIOR = {
    "method.prior.network.channels": 2,
    "method.prior.network.network.image_size": 2,
    "method.prior.network.network.in_channels": 2,
    "method.prior.network.network.channels": 4,
    "method.prior.network.network.num_res_blocks": 1,
}
GAN = {
    "method.prior.generator.image_size": 2,
    "method.prior.generator.in_channels": 2,
    "method.prior.generator.channels": 4,
    "method.prior.discriminator.image_size": 2,
    "method.prior.discriminator.image_channels": 2,
    "method.prior.discriminator.channels": 4,
    "method.prior.discriminator.num_layers": 1,
}


def written(folder, name, changes):
    """A bundled recipe, shrunk, as a file."""
    config = load_recipe(name)
    for key, value in {**changes, **TRAINER}.items():
        override(config, key, str(value))
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def stage(tmp_path, capsys):
    """Pictures, and a run of the first stage on them."""
    data = write_pictures(tmp_path / "data.npz", 20, 8, 1)
    recipe = written(tmp_path, "vae-mnist", SMALL)
    run(capsys, "train", recipe, "--data", data, "--out", tmp_path / "vae")
    return data, tmp_path / "vae"


def tensors(folder):
    return store.read(folder / "model.safetensors", "pipeline").tensors


def test_a_first_stage_starts_a_latent_model(stage, tmp_path, capsys):
    data, vae = stage
    recipe = written(tmp_path, "lsgm-mnist", {**SMALL, **PRIOR, "method.drop_inactive": 0.0})
    frozen = ["--method.train_autoencoder", "false"]
    only = ["--trainer.optimizers", "{prior: {lr: 0.01}}"]
    call = ["train", recipe, "--data", data, "--start", vae, "--out"]
    text = run(capsys, *call, tmp_path / "frozen", *frozen, *only)
    assert "starting from" in text and "autoencoder" in text
    before, after = tensors(vae), tensors(tmp_path / "frozen")
    assert before
    assert all(torch.equal(after[key], value) for key, value in before.items())
    run(capsys, *call, tmp_path / "joint")
    after = tensors(tmp_path / "joint")
    assert not all(torch.equal(after[key], value) for key, value in before.items())
    run(capsys, "sample", tmp_path / "joint", "-n", 4, "--steps", 2, "-o", tmp_path / "x.png")


def test_a_gan_starts_from_a_model_with_another_prior(stage, tmp_path, capsys):
    data, vae = stage
    recipe = written(tmp_path, "lsgm-mnist", {**SMALL, **PRIOR, "method.drop_inactive": 0.0})
    run(capsys, "train", recipe, "--data", data, "--start", vae, "--out", tmp_path / "score")
    recipe = written(tmp_path, "lsgm-mnist-ddgan", {**SMALL, **GAN})
    call = ["train", recipe, "--data", data, "--start", tmp_path / "score", "--out"]
    text = run(capsys, *call, tmp_path / "gan")
    assert "autoencoder" in text and "prior" not in text
    text = run(capsys, "sample", tmp_path / "gan", "-n", 4, "-o", tmp_path / "x.png")
    assert "in 4 network calls" in text


def test_a_start_that_does_not_fit_is_refused(stage, tmp_path, capsys):
    data, vae = stage
    wider = {**SMALL, **PRIOR, "method.drop_inactive": 0.0, "method.autoencoder.channels": 8}
    recipe = written(tmp_path, "lsgm-mnist", wider)
    out = tmp_path / "no"
    fails(["train", recipe, "--data", data, "--start", vae, "--out", out], "differs in", capsys)
    fails(["train", recipe, "--data", data, "--start", "ddpm-mnist", "--out", out], "none", capsys)
    assert not out.exists()


def test_tables_from_training_to_judgement(tmp_path, capsys):
    recipe = written(
        tmp_path,
        "lsgm-table",
        {"method.autoencoder.width": 8, "method.prior.network.network.width": 8},
    )
    model, rows, scores = tmp_path / "run", tmp_path / "rows.csv", tmp_path / "scores.json"
    run(capsys, "train", recipe, "--data", "iris", "--out", model)
    run(capsys, "sample", model, "-n", 5, "--steps", 2, "-o", rows)
    header, *lines = csv.reader(rows.open())
    assert header[-1] == "label" and len(lines) == 5
    assert {line[-1] for line in lines} <= {"setosa", "versicolor", "virginica"}
    call = ["evaluate", model, "--data", "iris", "--split", "test", "-n", 40, "--steps", 2]
    run(capsys, *call, "--json", scores)
    names = {record["name"] for record in json.loads(scores.read_text())}
    assert names == {"marginal_distance", "correlation_error", "classifier_accuracy", "novelty"}
    text = run(capsys, "likelihood", model, "--data", "iris", "-n", 4, "--tolerance", 0.01)
    assert "of a density" in text
    fails(["sample", model, "-n", 5, "-o", tmp_path / "rows.png"], "ending in .csv", capsys)
    fails(["sample", "ddgan-mnist", "-n", 5, "-o", rows], "ending in .csv", capsys)
    fixed = ["--method.autoencoder.categories", "[0, 0, 0, 0, 4]"]
    call = ["train", recipe, "--data", "iris", "--out", tmp_path / "other"]
    fails([*call, *fixed], "columns of", capsys)
