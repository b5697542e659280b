"""Extractors: identity, batch invariance, choice, weights, refusals."""

import hashlib
import io
import math
import sys
import types
from pathlib import Path

import pytest
import torch

from trilemma.errors import CheckpointError, ConfigError, DataError
from trilemma.metrics import (
    EXTRACTORS,
    DigitFeatures,
    EfficientNetLite0Features,
    FeatureExtractor,
    IdentityFeatures,
    InceptionFeatures,
    efficientnet,
    extractor_for,
    extractor_named,
    find_weights,
    metric_key,
    mnist_reference,
)
from trilemma.metrics import features as module
from trilemma.metrics.efficientnet import EfficientNetLite0, SameConv2d


@pytest.fixture(scope="module")
def efflite():
    return EfficientNetLite0Features(side=64)


@pytest.fixture(autouse=True)
def no_inception(monkeypatch, tmp_path):
    """Hide weights that the machine may have."""
    monkeypatch.delenv("TRILEMMA_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def pictures(n=6, channels=3, side=40):
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, channels, 5, 5, generator=rng)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (smooth * 255).byte()


def test_every_extractor_says_who_it_is(efflite):
    for extractor in (DigitFeatures(), efflite, IdentityFeatures()):
        assert EXTRACTORS[extractor.name] is type(extractor)
        assert extractor.preprocessing
        assert len(extractor.weights_sha256) in (0, 64)
        assert isinstance(extractor, FeatureExtractor)


def test_features_do_not_depend_on_the_batch(efflite):
    digits = mnist_reference().images[:30]
    for extractor, images in ((DigitFeatures(), digits), (efflite, pictures())):
        whole = extractor(images)
        assert whole.shape == (len(images), extractor.dim)
        assert whole.dtype == torch.float32
        assert not whole.requires_grad
        for size in (1, 4):
            torch.testing.assert_close(
                extractor(images, batch_size=size), whole, rtol=1e-4, atol=1e-4
            )


def test_padded_digits_have_the_features_of_the_digits():
    digits = mnist_reference().images[:8]
    padded = torch.nn.functional.pad(digits, (2, 2, 2, 2))
    assert torch.equal(DigitFeatures()(padded), DigitFeatures()(digits))


def test_grey_pictures_are_repeated(efflite):
    grey = pictures(2, channels=1)
    assert torch.equal(efflite(grey), efflite(grey.expand(-1, 3, -1, -1)))


def test_efflite_tells_pictures_apart_and_sees_colour_and_blur(efflite):
    a, b = efflite(pictures(2))
    assert float((a - b).norm()) > 1.0
    images = pictures(2)
    assert float((efflite(images.flip(1)) - efflite(images)).norm()) > 1.0


def test_shrinking_is_antialiased(efflite):
    stripes = torch.zeros(1, 3, 192, 192, dtype=torch.uint8)
    stripes[..., ::2] = 254  # finer than 64 pixels can show: must become grey, not a pattern
    grey = torch.full_like(stripes, 127)
    assert float((efflite(stripes) - efflite(grey)).norm()) < 5.0  # 27 without a filter


def test_efflite_identity_names_the_side(efflite):
    assert "64x64" in efflite.preprocessing
    assert efflite.weights_sha256 == module.EFFLITE0_SHA
    with pytest.raises(ConfigError, match="multiple of 32"):
        EfficientNetLite0Features(side=100)


def card():
    """Return one picture made without random numbers: a red disc on two ramps."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc = 255.0 * (((x - 20) ** 2 + (y - 30) ** 2).sqrt() < 18)
    return torch.stack([disc, 4 * x, 2 * (x + y)]).clamp(0, 255).byte()[None]


def symmetric_padding(extractor, monkeypatch):
    monkeypatch.setattr(efficientnet, "_same_padding", lambda size, k, stride: (k // 2, k // 2))


def usual_epsilon(extractor, monkeypatch):
    for part in extractor.network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            monkeypatch.setattr(part, "eps", 1e-5)


def no_skip(extractor, monkeypatch):
    for block in extractor.network._blocks:
        monkeypatch.setattr(block, "adds", False)


def test_efflite_known_answer_and_mutants(efflite):
    # the network that gave this number names safety pin, plunger and joystick on icons
    answer = 40.7869
    assert float(efflite(card()).norm()) == pytest.approx(answer, rel=1e-4)
    for mutant in (symmetric_padding, usual_epsilon, no_skip):
        with pytest.MonkeyPatch.context() as patch:
            mutant(efflite, patch)
            assert float(efflite(card()).norm()) != pytest.approx(answer, rel=1e-3), mutant
    assert float(efflite(card()).norm()) == pytest.approx(answer, rel=1e-4)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_same_padding(size, kernel, stride):
    conv = SameConv2d(1, 1, kernel, stride, bias=False)
    torch.nn.init.ones_(conv.weight)
    out = conv(torch.ones(1, 1, size, size))
    assert out.shape[2:] == (-(-size // stride),) * 2
    if (size, kernel, stride) == (8, 3, 2):  # TensorFlow pads the lower right only
        assert out[0, 0, 0, 0] == 9
        assert out[0, 0, -1, -1] == 4


def test_network_has_the_published_size():
    network = EfficientNetLite0().eval()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


def test_identity_takes_points():
    points = torch.tensor([[1.5, -2.0], [0.0, 3.0]])
    assert torch.equal(IdentityFeatures()(points), points)
    with pytest.raises(DataError, match="n > 0"):
        IdentityFeatures()(torch.zeros(3))


def test_word_fid_is_for_inception_only(efflite):
    assert metric_key(DigitFeatures()) == "fd_digits"
    assert metric_key(efflite) == "fd_efflite0"
    assert metric_key(efflite, "kernel") == "kd_efflite0"
    assert metric_key(IdentityFeatures()) == "fd_identity"
    inception = InceptionFeatures.__new__(InceptionFeatures)
    assert (metric_key(inception), metric_key(inception, "kernel")) == ("fid", "kid")
    impostor = type("Impostor", (InceptionFeatures,), {"name": "mine"})
    assert metric_key(impostor.__new__(impostor)) == "fd_mine"
    with pytest.raises(ConfigError, match="did you mean 'frechet'"):
        metric_key(efflite, "frechett")


def test_choice_of_extractor():
    assert isinstance(extractor_for(pictures(channels=1, side=28)), DigitFeatures)
    assert isinstance(extractor_for(pictures(channels=1, side=32)), DigitFeatures)
    assert isinstance(extractor_for(pictures(channels=1, side=40)), EfficientNetLite0Features)
    assert isinstance(extractor_for(pictures(side=32)), EfficientNetLite0Features)
    assert isinstance(extractor_named("digits"), DigitFeatures)
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        extractor_named("digit")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 32, 32), "uint8"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), r"\(n, c, h, w\)"),
        (torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "n > 0"),
        (torch.zeros(2, 4, 32, 32, dtype=torch.uint8), "4 channels"),
    ],
)
def test_images_that_cannot_be_read(efflite, images, message):
    with pytest.raises(DataError, match=message):
        efflite(images)
    with pytest.raises(DataError, match=message):
        extractor_for(images)


def test_digit_features_refuse_colour_and_say_what_to_do():
    with pytest.raises(DataError, match=r"3 channels.*classify"):
        DigitFeatures()(pictures(side=28))
    with pytest.raises(ConfigError, match="batch_size = 0"):
        DigitFeatures()(pictures(channels=1, side=28), batch_size=0)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'trilemma\[metrics\]'"):
        EfficientNetLite0Features()
    found = {entry.name: entry for entry in find_weights()}
    assert not found["efflite0"].found
    assert not found["inception"].found
    assert found["digits"].found
    assert "trilemma[inception]" in found["inception"].hint
    assert "TRILEMMA_WEIGHTS" in found["inception"].hint


def test_altered_efflite_weights(monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"something else")
    monkeypatch.setattr(module, "_efflite0_weights", lambda: path)
    with pytest.raises(CheckpointError, match="SHA-256"):
        EfficientNetLite0Features()


def test_inception_without_weights_says_which_file_to_put_where():
    with pytest.raises(ConfigError, match=r"2015-12-05-6726825d\.pth") as caught:
        InceptionFeatures()
    assert "\n" not in str(caught.value)
    assert "TRILEMMA_WEIGHTS" in str(caught.value)
    with pytest.raises(ConfigError, match="not a file"):
        InceptionFeatures("no/such/file.pth")


def test_order_of_the_search_for_inception_weights(monkeypatch, tmp_path):
    paths = [tmp_path / "hub" / "checkpoints", tmp_path / "variable", tmp_path / "given"]
    for folder in paths:
        folder.mkdir(parents=True)
        (folder / module.INCEPTION_FILE).write_bytes(b"x")
    assert module.inception_weights() == paths[0] / module.INCEPTION_FILE
    monkeypatch.setenv("TRILEMMA_WEIGHTS", str(paths[1]))
    assert module.inception_weights() == paths[1] / module.INCEPTION_FILE
    given = paths[2] / module.INCEPTION_FILE
    assert module.inception_weights(given) == given


def test_inception_of_other_weights_is_refused(tmp_path):
    path = tmp_path / module.INCEPTION_FILE
    path.write_bytes(b"not the weights")
    with pytest.raises(CheckpointError, match="expected 6726825d"):
        InceptionFeatures(path)


STAND_IN = """
import torch
class FeatureExtractorInceptionV3(torch.nn.Module):
    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        self.scale = torch.load(feature_extractor_weights_path, weights_only=True)["scale"]
        self.fc = torch.nn.Linear(2048, 1008)
        assert features_list == ["2048"]
    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        return (x.float().mean((1, 2, 3))[:, None].expand(-1, 2048) * self.scale,)
"""


@pytest.fixture
def fidelity(tmp_path, monkeypatch):
    """A package of torch-fidelity's shape whose ``__init__`` cannot be imported."""
    folder = tmp_path / "site" / "torch_fidelity"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import a_module_that_does_not_exist\n")
    (folder / "feature_extractor_inceptionv3.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for key in [k for k in sys.modules if k.split(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, key)
    return folder


def weights(tmp_path, monkeypatch, state):
    path = tmp_path / module.INCEPTION_FILE
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.write_bytes(buffer.getvalue())
    prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(module, "INCEPTION_SHA_PREFIX", prefix)
    return path


def test_inception_through_torch_fidelity(fidelity, tmp_path, monkeypatch):
    path = weights(tmp_path, monkeypatch, {"scale": torch.tensor(2.0)})
    extractor = InceptionFeatures(path)
    values = extractor(torch.full((3, 1, 8, 8), 5, dtype=torch.uint8), batch_size=2)
    assert torch.equal(values, torch.full((3, 2048), 10.0))
    assert metric_key(extractor) == "fid"
    with torch.no_grad():  # one output is preferred by 0.0001 x 2048 x 10; the bias is left out
        extractor.network.fc.weight.zero_()[7] = 0.0001
        extractor.network.fc.bias.fill_(0.0)[9] = 100.0
    found = extractor.probabilities(torch.full((3, 1, 8, 8), 5, dtype=torch.uint8))
    odds = math.exp(0.0001 * 2048 * 10)
    assert found.shape == (3, 1008)
    assert float(found[0, 7]) == pytest.approx(odds / (odds + 1007), rel=1e-4)
    assert float(found[0, 9]) == pytest.approx(1 / (odds + 1007), rel=1e-4)
    assert not any(k.startswith("torch_fidelity") for k in sys.modules)  # no half-made package


def test_colour_prefers_inception_when_it_is_there(fidelity, tmp_path, monkeypatch):
    weights(tmp_path, monkeypatch, {"scale": torch.tensor(2.0)})
    monkeypatch.setenv("TRILEMMA_WEIGHTS", str(tmp_path))
    assert isinstance(extractor_for(pictures()), InceptionFeatures)
    found = {entry.name: entry for entry in find_weights()}
    assert found["inception"].found
    assert Path(found["inception"].hint).is_file()


class Payload:
    def __reduce__(self):
        return (types.SimpleNamespace, ())


def test_inception_weights_with_code_are_refused(fidelity, tmp_path, monkeypatch):
    path = weights(tmp_path, monkeypatch, {"scale": Payload()})
    with pytest.raises(CheckpointError, match="damaged"):
        InceptionFeatures(path)
