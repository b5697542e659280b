"""Fitted features: network, balance, the card, files that are damaged or foreign."""

import hashlib
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from trilemma.checkpoints.store import read, write
from trilemma.data import BundledDigits
from trilemma.errors import CheckpointError, ConfigError, DataError
from trilemma.metrics import extractor_named, metric_key
from trilemma.metrics.fitted import (
    FeatureNet,
    FittedFeatures,
    average_down,
    caution,
    check_name,
    hardly_seen,
)
from trilemma.training import features as module
from trilemma.training.features import (
    LabelledImages,
    disturb,
    fit_features,
    read_labelled,
    save_features,
    sensitivity,
)


@pytest.fixture(scope="module")
def digits():
    return read_labelled(BundledDigits())


@pytest.fixture(scope="module")
def fit(digits):
    return fit_features(digits, budget=4000)


@pytest.fixture(scope="module")
def path(fit, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "mine.safetensors"
    save_features(path, fit, "mine", data="digits", version="1.2.3")
    return path


@pytest.fixture(scope="module")
def extractor(path):
    return FittedFeatures(path)


@pytest.mark.parametrize(
    ("channels", "side"), [(1, 16), (3, 21), (1, 28), (3, 32), (1, 33), (3, 47), (3, 64)]
)
def test_any_side_and_colour(channels, side):
    net = FeatureNet(channels, side, 3, dim=5).eval()
    hidden = net.hidden(torch.rand(2, channels, side, side))
    assert hidden.shape == (2, 5) and net.logits(hidden).shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 28, 0), "channels = 2"),
        ((1, 12, 0), "side = 12"),
        ((1, 65, 0), "side = 65"),
        ((1, 28, 1), "num_classes = 1"),
        ((1, 28, 2, 0), "dim = 0"),
    ],
)
def test_other_sizes_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FeatureNet(*arguments)


def test_large_images_are_averaged_down():
    images = torch.randint(256, (2, 3, 128, 128), dtype=torch.uint8)
    means = images.double().reshape(2, 3, 64, 2, 64, 2).mean((3, 5))
    assert (average_down(images).double() - means).abs().max() <= 0.5
    small = images[:, :, :40, :40]
    assert average_down(small) is small


def test_learns_the_digits(fit):
    assert fit.num_images == 512 and fit.num_held_out == 51
    assert fit.accuracy > 0.7
    assert fit.class_names == tuple("0123456789")


def test_features_are_half_the_way_to_white_on_the_images_of_the_fit(extractor, digits):
    found = extractor(digits.images).double()
    assert found.shape == (512, 64) and extractor.dim == 64
    assert found.mean(0).abs().max() < 1e-3
    hidden = extractor.network.hidden(digits.images.float() / 255)
    cov = torch.cov(found.mT)
    assert (cov - cov.mT).abs().max() < 1e-4
    assert (cov @ cov - torch.corrcoef(hidden.double().mT)).abs().max() < 2e-3


def test_features_do_not_depend_on_the_batch(extractor, digits):
    one, many = extractor(digits.images[:20], batch_size=1), extractor(digits.images[:20])
    torch.testing.assert_close(one, many, rtol=1e-3, atol=1e-3)


def test_probabilities_are_those_of_the_network(extractor, digits):
    found = extractor.probabilities(digits.images)
    assert found.shape == (512, 10) and found.dtype == torch.float64
    torch.testing.assert_close(found.sum(1), torch.ones(512, dtype=torch.float64))
    net = extractor.network
    direct = net.logits(net.hidden(digits.images.float() / 255)).double().softmax(1)
    torch.testing.assert_close(found, direct, rtol=1e-2, atol=1e-3)
    assert (found.argmax(1) == digits.labels).double().mean() > 0.7
    assert extractor.class_names == tuple("0123456789")


def test_the_file_says_what_it_is(path, extractor, fit):
    assert extractor.name == "mine" and metric_key(extractor) == "fd_mine"
    assert extractor.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.preprocessing == "grey, 28x28, divided by 255"
    about = extractor.about
    assert about["accuracy"] == fit.accuracy and about["card"] == fit.card
    assert about["num_images"] == 512 and about["num_held_out"] == 51 and about["seed"] == 0
    assert about["version"] == "1.2.3" and about["date"].startswith("20")
    assert isinstance(extractor_named(str(path)), FittedFeatures)
    assert read(path, "features").header == about  # the digest of the store holds too


def test_other_images_are_refused(extractor, digits):
    for images in (digits.images.repeat(1, 3, 1, 1), digits.images[:, :, :24, :24]):
        with pytest.raises(DataError, match=r"fitted on 1 x 28 x 28: fit others"):
            extractor(images)
    with pytest.raises(DataError, match="uint8"):
        extractor(digits.images.float())


def test_same_seed_same_weights(digits):
    fits = [fit_features(digits, budget=640, seed=seed).network for seed in (3, 3, 4)]
    first, same, other = (net.state_dict() for net in fits)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["bottleneck.0.weight"], other["bottleneck.0.weight"])
    state = torch.random.get_rng_state()
    fit_features(digits, budget=64)
    assert torch.equal(torch.random.get_rng_state(), state)  # no global generator is touched


def test_without_labels_there_are_no_classes(digits, tmp_path):
    reports = []
    images = LabelledImages(digits.images, None, ())
    fit = fit_features(images, budget=1280, report=reports.append)
    assert fit.accuracy is None and "one_class" not in fit.card
    assert reports[0].images <= 0.1 * 1280 and reports[-1].accuracy is None
    save_features(tmp_path / "f.safetensors", fit, "plain")
    extractor = FittedFeatures(tmp_path / "f.safetensors")
    assert extractor.class_names == () and extractor.probabilities(digits.images) is None
    assert extractor(digits.images[:3]).shape == (3, 64)


def test_the_card_by_hand():
    """Images of one grey level a class, read by their mean: all distances are known numbers."""
    labels = torch.arange(300) % 3
    images = (60 * labels + 40).to(torch.uint8)[:, None, None, None].expand(300, 1, 16, 16)
    card, num = sensitivity(lambda x: x.double().mean((1, 2, 3))[:, None], images, labels, seed=5)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(5))
    real, other = (images[part, 0, 0, 0].double() for part in (order[:150], order[150:]))

    def distance(a, b):
        return (a.mean() - b.mean()).item() ** 2 + (a.std() - b.std()).item() ** 2

    assert num == 150
    assert card["real"] == card["blur"] == pytest.approx(distance(other, real), abs=1e-6)
    assert card["noise"] == pytest.approx(card["real"], abs=3)
    level = 60.0 * labels.bincount().argmax() + 40
    alone = (level - real.mean()).item() ** 2 + real.std().item() ** 2
    assert card["one_class"] == pytest.approx(alone, rel=1e-6)
    copies = other[:16].repeat(10)[:150]
    assert card["repeats"] == pytest.approx(distance(copies, real), rel=1e-6)


def test_the_card_blurs_and_soils_as_it_says():
    """Read by the value of a bright pixel and by the spread: a Gaussian kernel, and sigma 0.05."""
    images = torch.full((400, 1, 33, 33), 100, dtype=torch.uint8)
    images[:, :, 16, 16] = 200
    at = {"centre": lambda x: x[:, 0, 16, 16].double()[:, None]}
    at["spread"] = lambda x: x[:, 0, :10].double().flatten(1).std(1)[:, None]
    weights = [math.exp(-(k**2) / 2) for k in range(-4, 5)]
    peak = 100 + 100 / sum(weights) ** 2
    centre, _ = sensitivity(at["centre"], images)
    assert math.sqrt(centre["blur"]) == pytest.approx(200 - peak, abs=0.6)
    spread, _ = sensitivity(at["spread"], images)
    assert math.sqrt(spread["noise"]) == pytest.approx(0.05 * 255, rel=0.02)


def test_disturbances_are_what_is_regressed():
    grey = torch.full((600, 1, 16, 16), 0.5)
    found, done = disturb(grey, torch.Generator().manual_seed(0))
    amount = dict(zip(module.DISTURBANCES, done.T, strict=True))
    torch.testing.assert_close(
        found.std((1, 2, 3)), 0.05 * amount["noise"] ** 2, rtol=0.2, atol=1e-6
    )
    torch.testing.assert_close(
        found.mean((1, 2, 3)), 0.5 + 0.15 * amount["brightness"], rtol=0, atol=0.05
    )
    assert 0.4 < (done[:, :5] == 0).all(1).double().mean() < 0.6
    assert 0.4 < (amount["blur"] == 0).double().mean() < 0.6
    assert done[:, :5].abs().max() <= 1 and done[:, 5:7].max() <= 2


@pytest.mark.parametrize("amount", [0.0, 1.0, 2.0])
def test_blur_has_the_variance_that_it_names(amount):
    spot = torch.zeros(1, 1, 21, 21)
    spot[..., 10, 10] = 1
    found = module._blurred(spot, torch.full((1, 1, 1, 1), amount))[0, 0].sum(0)
    place = torch.arange(21) - 10.0
    assert found.sum() == pytest.approx(1) and (found * place**2).sum() == pytest.approx(amount)


def test_the_principal_components_are_uncorrelated_and_ordered():
    """Against numpy's singular values, of images that vary in 20 directions only."""
    rng = torch.Generator().manual_seed(0)
    waves = torch.randn(20, 256, generator=rng)
    size = torch.linspace(3, 0.5, 20)
    flat = 128 + 6 * (torch.randn(400, 20, generator=rng) * size) @ waves / 4
    images = flat.view(400, 1, 16, 16).round().clamp(0, 255).to(torch.uint8)
    found = module._content(images).double()
    assert found.shape == (400, 32)
    torch.testing.assert_close(found.mT @ found / 400, torch.eye(32).double(), rtol=0, atol=1e-3)
    centred = images.flatten(1).double() - images.flatten(1).double().mean(0)
    left = torch.linalg.svd(centred, full_matrices=False)[0][:, :8]
    overlap = (left.mT @ found[:, :8] / 20).abs().diagonal()
    assert overlap.min() > 0.99


def test_too_little_to_fit_on(digits):
    few = LabelledImages(digits.images[:100], digits.labels[:100], digits.class_names)
    with pytest.raises(DataError, match="100 images are too few"):
        fit_features(few)
    with pytest.raises(DataError, match="all images have one class"):
        fit_features(LabelledImages(digits.images, digits.labels * 0, ("a",)))
    with pytest.raises(DataError, match="too alike"):
        fit_features(LabelledImages(digits.images * 0, digits.labels, ()), budget=64)
    with pytest.raises(ConfigError, match="budget = 10"):
        fit_features(digits, budget=10)


@pytest.mark.parametrize("name", ["inception", "efflite0", "digits", "identity", "My", "a-b", ""])
def test_names_that_are_taken_or_odd(name):
    with pytest.raises(ConfigError, match="give --name"):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["fid", "my_fid", "fid50k", "true_inception", "inception_score", "kid", "is"]
)
def test_names_of_published_scores_are_refused(name, path, tmp_path):
    """``fd_fid`` or ``is_inception_score`` would be read as figures of the true Inception."""
    with pytest.raises(ConfigError, match=r"FID|other features") as caught:
        check_name(name)
    assert "give --name" in str(caught.value) and "\n" not in str(caught.value)
    file = tmp_path / "named.safetensors"  # such a file may come from elsewhere
    write(file, "features", load_file(path), read(path, "features").header | {"name": name})
    with pytest.raises(ConfigError, match=r"named\.safetensors: features called") as caught:
        FittedFeatures(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["kids", "island", "this", "fd", "mine"])
def test_other_names_are_free(name):
    assert check_name(name) == name


def test_flaws_are_seen_from_one_and_a_half_floors():
    card = {"real": 2.0, "blur": 2.99, "noise": 3.0, "one_class": 0.1, "repeats": 50.0}
    assert hardly_seen(card) == ("blurred by 1 pixel", "largest class only")
    assert hardly_seen({"real": 2.0, "noise": 2.0}) == ("noise of 0.05",)
    assert hardly_seen({"real": 2.0, "noise": 9.0}) == hardly_seen({}) == ()
    assert caution(hardly_seen(card)) == (
        "hardly see: blurred by 1 pixel, largest class only. Do not compare models by them where "
        "that matters"
    )


def test_a_file_knows_what_its_features_hardly_see(path, tmp_path):
    tensors, about = load_file(path), read(path, "features").header
    file = tmp_path / "weak.safetensors"
    write(file, "features", tensors, about | {"card": {"real": 1, "blur": 1, "noise": 9}})
    assert FittedFeatures(file).hardly_seen == ("blurred by 1 pixel",)
    write(file, "features", tensors, {key: value for key, value in about.items() if key != "card"})
    assert FittedFeatures(file).hardly_seen == ()
    for card in ({"real": "x"}, {"real": None}, ["real"]):
        write(file, "features", tensors, about | {"card": card})
        with pytest.raises(CheckpointError, match="do not fit"):
            FittedFeatures(file)


def test_damaged_and_foreign_files(path, tmp_path):
    content = path.read_bytes()
    other = tmp_path / "other.safetensors"
    for cut in (0, 5, 400, len(content) - 3):
        other.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
            FittedFeatures(other)
    with pytest.raises(CheckpointError, match="cannot read"):
        FittedFeatures(tmp_path / "none.safetensors")
    write(other, "pipeline", {"a": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="is a pipeline file, not one of features"):
        FittedFeatures(other)
    save_file({"a": torch.zeros(2)}, other)
    with pytest.raises(CheckpointError, match="foreign safetensors file"):
        FittedFeatures(other)


def test_headers_that_do_not_fit(path, tmp_path):
    tensors, about = load_file(path), read(path, "features").header
    other = tmp_path / "other.safetensors"
    network = about["network"]
    for change, message in (
        ({"network": network | {"side": 64}}, "do not fit"),
        ({"network": network | {"dim": "x"}}, "do not fit"),
        ({"network": network | {"more": 1}}, "do not fit"),
        ({"class_names": ["a", "b"]}, "names 2 classes"),
    ):
        write(other, "features", tensors, about | change)
        with pytest.raises(CheckpointError, match=message):
            FittedFeatures(other)
    write(other, "features", tensors | {"center": torch.full((64,), math.nan)}, about)
    with pytest.raises(CheckpointError, match="not finite"):
        FittedFeatures(other)
    save_file(tensors, other, {"kind": "features", "header": json.dumps(["no", "mapping"])})
    with pytest.raises(CheckpointError, match="not one of features"):
        FittedFeatures(other)
