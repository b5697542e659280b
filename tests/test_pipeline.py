"""Models in one file: saved, loaded, sampled, and refused when something does not fit."""

import pytest
import torch
from tiny import shrunk

import trilemma
from trilemma.checkpoints import store
from trilemma.config import build_method, resolve
from trilemma.errors import CheckpointError, ConfigError, TrilemmaError
from trilemma.pipeline import Pipeline, load, save_pipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model file of random weights, and the method it came from."""
    folder = tmp_path_factory.mktemp("model")
    config = resolve(shrunk("ddgan-mnist", folder))["method"]
    torch.manual_seed(0)
    method = build_method(config)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = folder / "model.safetensors"
    card = {"summary": "random", "data": "none"}
    names = ("zero", "one")
    save_pipeline(path, method, config, (1, 28, 28), class_names=names, card=card)
    return path, method, config


def test_round_trip(made):
    path, method, _ = made
    pipeline = load(path)
    assert (pipeline.event_shape, pipeline.class_names) == ((1, 28, 28), ("zero", "one"))
    assert pipeline.card == {"summary": "random", "data": "none"}
    assert (pipeline.num_steps, pipeline.num_classes) == (4, 0)
    assert pipeline.method.discriminator is None
    assert not pipeline.method.training
    assert not any(p.requires_grad for p in pipeline.method.parameters())
    state = pipeline.method.state_dict()
    for name, value in method.sampling_state().items():
        assert torch.equal(state[name], value)


def test_loaded_and_original_draw_the_same(made):
    path, method, _ = made
    assert torch.equal(
        load(path).sample(3, seed=2), Pipeline(method, (1, 28, 28)).sample(3, seed=2)
    )


def test_samples(made):
    pipeline = trilemma.load(str(made[0]))
    drawn = pipeline.sample(5, seed=1)
    assert drawn.shape == (5, 1, 28, 28)
    assert drawn.dtype == torch.float32
    assert drawn.abs().max() <= 1
    torch.testing.assert_close(
        pipeline.sample(5, seed=1, batch_size=2), drawn, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(pipeline.sample(2, seed=1, first=3), drawn[3:], rtol=1e-5, atol=1e-5)
    assert not torch.equal(pipeline.sample(5, seed=2), drawn)


def test_sampling_leaves_the_global_random_state_alone(made):
    pipeline = load(made[0])
    before = torch.get_rng_state()
    pipeline.sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_folder_is_a_model(made):
    assert torch.equal(load(made[0].parent).sample(1), load(made[0]).sample(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num": 0}, "num=0"),
        ({"num": 2, "num_steps": 3}, "cannot sample in 3"),
        ({"num": 2, "class_label": 0}, "without labels"),
        ({"num": 2, "batch_size": 0}, "batch_size"),
    ],
)
def test_errors_name_the_argument(made, options, words):
    with pytest.raises(ConfigError, match=words):
        load(made[0]).sample(**options)


@pytest.mark.parametrize("name", ["no-such-model", "missing.safetensors", "./nothing"])
def test_unknown_models(name):
    with pytest.raises(CheckpointError):
        load(name)


def rewritten(made, change, tensors=None):
    """The same model with a changed header and a valid digest."""
    stored = store.read(made[0], "pipeline")
    path = made[0].with_name("changed.safetensors")
    store.write(path, "pipeline", tensors or stored.tensors, change(stored.header))
    return path


def test_a_header_that_names_foreign_classes_is_refused(made):
    def foreign(value):
        def change(header):
            arguments = dict(header["method"]["init_args"], generator=value)
            return {**header, "method": {**header["method"], "init_args": arguments}}

        return change

    for value in (
        {"class_path": "os.system", "init_args": {"command": "true"}},
        {"class_path": "torch.nn.Identity", "init_args": {}},
        "torch.nn.Identity",
    ):
        with pytest.raises(ConfigError):
            load(rewritten(made, foreign(value)))


@pytest.mark.parametrize("missing", ["method", "event_shape", "class_names", "card"])
def test_a_header_without_an_entry_is_refused(made, missing):
    path = rewritten(made, lambda h: {k: v for k, v in h.items() if k != missing})
    with pytest.raises(CheckpointError, match=missing):
        load(path)


def test_tensors_that_do_not_fit_are_refused(made):
    stored = store.read(made[0], "pipeline")
    first = next(iter(stored.tensors))
    fewer = {k: v for k, v in stored.tensors.items() if k != first}
    with pytest.raises(CheckpointError, match="1 missing"):
        load(rewritten(made, dict, fewer))
    more = {**stored.tensors, "generator.more": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="1 unknown"):
        load(rewritten(made, dict, more))
    other = {**stored.tensors, first: torch.zeros(2, 3, 4)}
    with pytest.raises(TrilemmaError):
        load(rewritten(made, dict, other))


def test_training_files_are_no_models(made, tmp_path):
    path = tmp_path / "step.safetensors"
    store.write(path, "training", {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="training"):
        load(path)
