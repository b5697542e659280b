"""``trilemma features``: a file that evaluate takes, and errors of one line."""

import json

import numpy as np
import pytest
from test_cli import fails, plain
from tiny import write_pictures

from trilemma.cli import main
from trilemma.data import BundledDigits
from trilemma.images import save_images
from trilemma.metrics.fitted import FittedFeatures


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr("trilemma.commands.common.console._width", 200, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def pictures(folder):
    return str(write_pictures(folder / "pictures.npz", 240, 20, 3))


def test_digits_from_the_package_to_a_verdict(folder, capsys):
    out = folder / "My-digits.safetensors"
    assert main(["features", "--data", "digits", "-o", str(out), "--budget", "1000"]) == 0
    text = plain(capsys.readouterr().out)
    assert "512 images of 28 x 28 pixels, 10 classes" in text
    assert "on 51 images held out of the fit" in text
    assert "against 256 real images" in text and "largest class only" in text
    assert f"trilemma evaluate MODEL --data digits --extractor {out}" in text
    extractor = FittedFeatures(out)
    assert extractor.name == "my_digits" and extractor.about["budget"] == 1000
    assert extractor.about["data"] == "digits"
    assert text.count(f"{extractor.about['card']['blur']:.3g}") >= 1

    digits = BundledDigits()
    save_images(folder / "samples.npz", digits.images_uint8(range(300)))
    judged = ["evaluate", str(folder / "samples.npz"), "--data", "digits", "--split", "test"]
    judged += ["-n", "100", "--extractor", str(out), "--json", str(folder / "r.json")]
    assert main(judged) == 0
    records = json.loads((folder / "r.json").read_text())
    assert records[0]["name"] == "fd_my_digits"
    assert {record["weights_sha256"] for record in records} == {extractor.weights_sha256}


def test_unlabelled_colour_pictures_with_settings(pictures, folder, capsys):
    out = folder / "plain.safetensors"
    call = ["features", "--data", pictures, "-o", str(out), "--name", "tiles", "--budget", "320"]
    assert main([*call, "--data.label_column", "none", "--data.image_size", "16"]) == 0
    text = plain(capsys.readouterr().out)
    assert "240 images of 16 x 16 pixels, no labels" in text
    assert "they know no classes" in text
    assert "accuracy" not in text and "largest class" not in text
    extractor = FittedFeatures(out)
    assert extractor.name == "tiles" and extractor.preprocessing.startswith("rgb, 16x16")
    assert extractor.about["data"] == "pictures.npz"  # no path of this machine


def test_weak_features_are_called_weak(pictures, folder, capsys):
    """Of pictures that are noise themselves, more noise is not seen."""
    out = folder / "weak.safetensors"
    assert main(["features", "--data", pictures, "-o", str(out), "--budget", "64"]) == 0
    told = plain(capsys.readouterr().out).split("these features hardly see: ")[1]
    assert "noise of 0.05" in told.split(" Do not compare")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "grid25"], "features are fitted on pictures"),
        (["--data", "digits", "--split", "train"], "only 512 test digits"),
        (["--data", "digits", "--data.pad", "2"], "digits has no settings here"),
        (["--data", "digits", "--method.channels", "2"], "data are set by --data.NAME"),
        (["--data", "digits", "--name", "inception"], "belongs to other features"),
        (["--data", "digits", "--name", "fid"], "words for the true Inception"),
        (["--data", "digits", "--name", "my_inception"], "words for the true Inception"),
        (["--data", "digits", "-o", "fid.safetensors"], "words for the true Inception"),
        (["--data", "digits", "--name", "A b"], "names hold a-z, 0-9 and _ only"),
        (["--data", "digits", "--budget", "3"], "budget = 3"),
        (["--data", "digits", "--limit", "0"], "--limit 0: at least 1"),
    ],
)
def test_wrong_calls(options, message, folder, capsys):
    fails(["features", "-o", folder / "x.safetensors", *options], message, capsys)
    assert not (folder / "x.safetensors").exists()


def test_wrong_pictures(pictures, folder, capsys):
    def refused(where, message, *more):
        call = ["features", "--data", where, "-o", folder / "x.safetensors", *more]
        fails(call, message, capsys)

    refused(write_pictures(folder / "few.npz", 30, 20), "30 images are too few")
    refused(pictures, "pictures of 8 x 8 pixels", "--data.image_size", "8")
    refused(pictures, "no argument 'size' here", "--data.size", "8")
    with np.load(pictures) as held:
        images = held["arr_0"]
    np.savez(folder / "one.npz", arr_0=images, arr_1=np.zeros(len(images), np.int64))
    refused(folder / "one.npz", "all images have one class")
    np.savez(folder / "flat.npz", arr_0=images[:, :18], arr_1=np.arange(len(images)) % 2)
    refused(folder / "flat.npz", "pictures of 18 x 20 pixels; features need squares")


def test_files_that_cannot_be_written(folder, capsys):
    (folder / "taken.safetensors").mkdir()
    (folder / "file").write_text("")
    for out, message in (
        ("mine.pt", r"written to a file \*.safetensors"),
        ("taken.safetensors", "is a folder"),
        ("file/mine.safetensors", "no folder to write to"),
    ):
        fails(["features", "--data", "digits", "-o", folder / out], message, capsys)
