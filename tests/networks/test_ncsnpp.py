"""The U-Net: shapes of every option, conditioning, initial behaviour, errors."""

import pytest
import torch
import torch.nn.functional as F

from trilemma.errors import ConfigError
from trilemma.networks import NCSNpp

TINY = {
    "image_size": 8,
    "channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
}


def evaluate(network, batch=2, **overrides):
    channels, height, width = network.event_shape
    inputs = {
        "u": torch.randn(batch, channels, height, width),
        "t": torch.arange(batch) % 4,
        "code": torch.randn(batch, network.code_dim) if network.code_dim else None,
        "label": torch.arange(batch) % network.num_classes if network.num_classes else None,
        **overrides,
    }
    return network(**inputs)


def excite(network, std=0.3):
    """Make zero-initialised layers matter."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return network.eval()


OPTIONS = {
    "plain": {},
    "code": {"code_dim": 6, "style_dim": 12},
    "one adaptive norm": {"code_dim": 6, "style_dim": 12, "block": "biggan_oneadagn"},
    "ddpm": {"block": "ddpm"},
    "residual": {"input_pyramid": "residual"},
    "residual mean": {"input_pyramid": "residual", "resample": "mean"},
    "skip sum": {"input_pyramid": "input_skip", "combine": "sum"},
    "skip cat": {"input_pyramid": "input_skip", "combine": "cat"},
    "output": {"output_pyramid": "output_skip"},
    "fir 3": {"fir_kernel": (1, 2, 1), "input_pyramid": "residual"},
    "no time": {"time_embedding": "none"},
    "not rescaled": {"skip_rescale": False},
    "three levels": {"channel_mult": (1, 1, 2), "input_pyramid": "residual"},
    "classes": {"num_classes": 3},
    "classes and code": {"num_classes": 3, "code_dim": 6},
    "patches": {"patch_size": 2, "channel_mult": (1, 2)},
    "patches and code": {"patch_size": 2, "code_dim": 6, "input_pyramid": "residual"},
    "dropout": {"dropout": 0.2},
    "two res blocks": {"num_res_blocks": 2},
    "attention everywhere": {"attention_resolutions": (8, 4)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_shapes_and_gradients_of_every_option(options):
    network = excite(NCSNpp(**{**TINY, **options}), 0.1)
    y = evaluate(network)
    assert y.shape == (2, 3, 8, 8)
    assert torch.isfinite(y).all()
    y.square().sum().backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None]
    assert not unused


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patches_keep_the_shape_of_the_image(patch_size):
    network = NCSNpp(16, 1, 2, channels=8, channel_mult=(1, 1), patch_size=patch_size)
    assert evaluate(network).shape == (2, 2, 16, 16)
    assert network.stem.in_channels == patch_size**2


@pytest.mark.parametrize("kind", ["fourier", "fourier_linear"])
def test_times_of_a_score_network(kind):
    network = excite(NCSNpp(**TINY, time_embedding=kind))
    y = [evaluate(network, u=torch.ones(2, 3, 8, 8), t=torch.full((2,), t)) for t in (0.2, 0.7)]
    assert not torch.allclose(y[0], y[1])


def test_an_untrained_network_returns_almost_nothing():
    y = evaluate(NCSNpp(**TINY, code_dim=6, tanh=True))
    assert float(y.detach().abs().max()) < 1e-3


def test_tanh_bounds_and_rescale_maps_the_input():
    network = excite(NCSNpp(**TINY, tanh=True), 1.0)
    assert float(evaluate(network).detach().abs().max()) <= 1
    plain, rescaled = NCSNpp(**TINY), NCSNpp(**TINY, rescale_input=True)
    rescaled.load_state_dict(excite(plain).state_dict())
    u, t = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    torch.testing.assert_close(rescaled.eval()(u, t), plain(2 * u - 1, t))


@pytest.mark.parametrize("what", ["u", "t", "code", "label"])
def test_every_input_matters(what):
    network = excite(NCSNpp(**TINY, code_dim=6, num_classes=3))
    inputs = {
        "u": torch.randn(2, 3, 8, 8),
        "t": torch.tensor([0, 1]),
        "code": torch.randn(2, 6),
        "label": torch.tensor([0, 1]),
    }
    other = {**inputs, what: inputs[what] + 1}
    assert not torch.allclose(network(**inputs), network(**other))


def test_samples_do_not_see_each_other():
    network = excite(NCSNpp(**TINY, code_dim=6), 0.2)
    u, t, code = torch.randn(4, 3, 8, 8), torch.arange(4), torch.randn(4, 6)
    whole = network(u, t, code)
    parts = torch.cat([network(u[i : i + 1], t[i : i + 1], code[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)


def test_channels_last_weights_give_the_same_numbers():
    network = excite(NCSNpp(**TINY, code_dim=6, input_pyramid="residual"), 0.1)
    u, t, code = torch.randn(2, 3, 8, 8), torch.tensor([0, 1]), torch.randn(2, 6)
    plain = network(u, t, code)
    y = network.to(memory_format=torch.channels_last)(
        u.contiguous(memory_format=torch.channels_last), t, code
    )
    torch.testing.assert_close(y, plain, rtol=1e-4, atol=1e-5)


def test_class_labels_of_a_conditional_network_are_needed():
    network = NCSNpp(**TINY, num_classes=3)
    with pytest.raises(ConfigError, match="3 classes"):
        evaluate(network, label=None)
    with pytest.raises(ConfigError, match="0 classes"):
        evaluate(NCSNpp(**TINY), label=torch.zeros(2, dtype=torch.int64))


def test_codes_are_needed_where_the_network_has_them():
    with pytest.raises(ConfigError, match="code of size 6"):
        evaluate(NCSNpp(**TINY, code_dim=6), code=None)
    with pytest.raises(ConfigError, match="code of size 0"):
        evaluate(NCSNpp(**TINY), code=torch.randn(2, 6))


def test_labels_need_an_embedding_to_enter_by():
    """Without code and without time there is nowhere for a label to enter: refuse, not crash."""
    with pytest.raises(ConfigError, match="num_classes"):
        evaluate(NCSNpp(**TINY, num_classes=3, time_embedding="none"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block": "bigan"}, r"block='bigan'.*did you mean 'biggan'"),
        ({"input_pyramid": "residuals"}, r"input_pyramid='residuals'.*did you mean 'residual'"),
        ({"output_pyramid": "skip"}, "output_pyramid='skip'"),
        ({"combine": "product"}, "combine='product'"),
        ({"resample": "bilinear"}, "resample='bilinear'"),
        ({"time_embedding": "cosine"}, "time_embedding='cosine'"),
        ({"fir_kernel": (1,)}, "fir_kernel"),
        ({"image_size": 9}, "image_size=9"),
        ({"image_size": 28, "channel_mult": (1, 1, 1, 1)}, "image_size=28"),
        ({"patch_size": 3}, "patch_size=3"),
        ({"channels": 6}, "channels do not split"),
        ({"channels": 10}, "channels do not split"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_name_the_argument(options, words):
    with pytest.raises(ConfigError, match=words):
        NCSNpp(**{**TINY, **options})


@pytest.mark.parametrize(
    ("name", "value"),
    [("patch_size", 0), ("channels", 0), ("channel_mult", ()), ("num_res_blocks", -1)],
)
def test_sizes_out_of_range_are_config_errors(name, value):
    with pytest.raises(ConfigError, match=name.split("_")[0]):
        NCSNpp(**{**TINY, name: value})


def test_dropout_out_of_range_is_a_config_error():
    with pytest.raises(ConfigError, match="dropout"):
        NCSNpp(**TINY, dropout=1.5)


def test_dropout_is_off_in_eval_mode():
    network = excite(NCSNpp(**TINY, dropout=0.5), 0.1)
    u, t = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    assert torch.equal(network(u, t), network(u, t))
    network.train()
    assert not torch.equal(network(u, t), network(u, t))


FORMULAS = {
    "relu": lambda x: x.clamp_min(0),
    "elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.2 * x),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("pyramid", ["none", "output_skip"])
def test_activations_stand_wherever_the_default_stands(name, pyramid, monkeypatch):
    """The same weights, with the default itself replaced by the formula."""
    options = {**TINY, "output_pyramid": pyramid}
    network = excite(NCSNpp(**options, activation=name))
    twin = NCSNpp(**options).eval()
    twin.load_state_dict(network.state_dict())
    replaced = [m for m in twin.modules() if getattr(m, "activation", None) is F.silu]
    for module in replaced:
        module.activation = FORMULAS[name]
    u, t = torch.randn(2, 3, 8, 8), torch.tensor([0, 3])
    with torch.no_grad():
        torch.testing.assert_close(network(u, t), twin(u, t), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(F, "silu", None)  # nothing calls the default past its argument
    network(u, t)


@pytest.mark.parametrize("embedding", ["positional", "fourier_linear", "none"])
def test_one_time_serves_the_whole_batch(embedding):
    network = excite(NCSNpp(**{**TINY, "time_embedding": embedding}))
    u, t = torch.randn(3, 3, 8, 8), torch.tensor(0.25)
    with torch.no_grad():
        assert torch.equal(network(u, t), network(u, t.expand(3)))
        assert torch.equal(network(u, 0.25), network(u, t.expand(3)))
