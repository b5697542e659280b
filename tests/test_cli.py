"""The command line: what it writes, and one line for every mistake."""

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import POINTS, SHRINK, TRAINER, write_pictures

from trilemma.checkpoints import store
from trilemma.cli import main
from trilemma.commands import about
from trilemma.config import recipe_names

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def options(settings):
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


TINY = options({**SHRINK, **TRAINER})


def plain(text):
    """Output without line breaks and colours, whatever the width of the terminal."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr("trilemma.commands.common.console._width", 200, raising=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "digits.npz", 40, 28, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures):
    """A run of two steps of the digit recipe, shrunk."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "ddgan-mnist", "--data", str(pictures), "--out", str(out), *TINY]) == 0
    return out


@pytest.fixture(scope="module")
def conditional(tmp_path_factory, pictures):
    out = tmp_path_factory.mktemp("runs") / "labelled"
    labelled = {"method.generator.num_classes": 10, "method.discriminator.num_classes": 10}
    call = ["train", "ddgan-mnist", "--data", str(pictures), "--out", str(out), *TINY]
    assert main(call + options(labelled)) == 0
    return out


def fails(arguments, words, capsys, code=2):
    """The call prints one line on standard error, nothing on standard output, and returns 2."""
    capsys.readouterr()
    try:
        returned = main([str(word) for word in arguments])
    except SystemExit as end:  # of the parser
        returned = end.code
    out, err = capsys.readouterr()
    assert returned == code, (out, err)
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("trilemma: error: ")
    assert out == ""
    assert len(lines[0]) < 600
    assert re.search(words, lines[-1]), err


# --------------------------------------------------------------------- happy paths


def test_training_writes_a_run(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "log.jsonl", "checkpoints", "model.safetensors"} <= names
    header = store.read(trained / "model.safetensors", "pipeline").header
    assert header["event_shape"] == [1, 28, 28]
    assert header["card"]["recipe"] == "ddgan-mnist"


def test_a_recorded_configuration_trains_again(trained, tmp_path, pictures, capsys):
    """config.yaml is a recipe; the same recipe gives the same weights."""
    again = tmp_path / "again"
    assert main(["train", str(trained / "config.yaml"), "--out", str(again)]) == 0
    first, second = (
        store.read(out / "model.safetensors", "pipeline").tensors for out in (trained, again)
    )
    assert all(torch.equal(second[k], v) for k, v in first.items())


def test_resuming_a_finished_run_ends_at_once(trained, pictures, capsys):
    call = ["train", "ddgan-mnist", "--data", str(pictures), "--out", str(trained), *TINY]
    assert main([*call, "--resume"]) == 0
    assert "finished" in capsys.readouterr().out


def test_training_on_points(tmp_path, capsys):
    call = ["train", "ddgan-25gaussians", "--out", str(tmp_path / "p"), *options(POINTS)]
    assert main([*call, *options(TRAINER), "--data", "ring8"]) == 0
    fails(["sample", tmp_path / "p", "-o", tmp_path / "a.png"], "points, not images", capsys)
    fails(["interpolate", tmp_path / "p", "-o", tmp_path / "a.gif"], "points, not images", capsys)
    written = tmp_path / "records.json"
    call = ["evaluate", str(tmp_path / "p"), "--data", "ring8", "-n", "50", "--json", str(written)]
    assert main(call) == 0
    names = {record["name"] for record in json.loads(written.read_text())}
    assert names == {"high_quality", "num_modes", "mode_kl"}


def test_overrides_may_use_an_equals_sign(tmp_path):
    call = ["train", "ddgan-25gaussians", "--out", str(tmp_path / "p"), *options(POINTS)]
    assert main([*call, *[f"--{key}={value}" for key, value in TRAINER.items()]]) == 0


@pytest.mark.parametrize("name", ["a.npz", "a.png", "folder"])
def test_sampling(trained, tmp_path, name, capsys):
    out = tmp_path / name
    assert main(["sample", str(trained), "-n", "3", "--seed", "1", "-o", str(out)]) == 0
    assert "3 samples in 4 network calls each" in plain(capsys.readouterr().out)
    if name == "folder":
        assert len(list(out.glob("*.png"))) == 3
    elif name == "a.png":
        assert Image.open(out).size[0] > 28
    else:
        with np.load(out) as archive:
            assert archive["arr_0"].shape == (3, 28, 28, 1)
            assert archive["arr_0"].dtype == np.uint8


def sampled(model, out, *more):
    assert main(["sample", str(model), "-o", str(out), *more]) == 0
    with np.load(out) as archive:
        return {name: archive[name] for name in archive}


def test_sampling_is_a_function_of_the_seed(trained, tmp_path):
    first = sampled(trained, tmp_path / "a.npz", "-n", "5")["arr_0"]
    again = sampled(trained, tmp_path / "b.npz", "-n", "5", "--batch-size", "2")["arr_0"]
    other = sampled(trained, tmp_path / "c.npz", "-n", "5", "--seed", "1")["arr_0"]
    assert np.abs(first.astype(int) - again).max() <= 1
    assert not (first == other).all()


def test_labels_are_written_beside_samples(conditional, tmp_path):
    found = sampled(conditional, tmp_path / "a.npz", "-n", "12")
    assert found["arr_1"].tolist() == [*range(10), 0, 1]
    found = sampled(conditional, tmp_path / "b.npz", "-n", "3", "--class-label", "7")
    assert found["arr_1"].tolist() == [7, 7, 7]


def test_two_processes_draw_what_one_draws(conditional, tmp_path):
    """Under torchrun, to one array and to a folder; five samples do not split evenly."""
    one = sampled(conditional, tmp_path / "one.npz", "-n", "5")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "trilemma", "sample", str(conditional), "-n", "5"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "two.npz")],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "two.npz") as two:
        assert set(two) == set(one)
        assert all((two[name] == one[name]).all() for name in one)


def test_evaluating_a_model_and_a_file(trained, pictures, tmp_path, capsys):
    sampled(trained, tmp_path / "a.npz", "-n", "40")
    shared = ["--data", str(pictures), "-n", "30", "--extractor", "digits"]
    assert main(["evaluate", str(trained), *shared, "--json", str(tmp_path / "r.json")]) == 0
    first = capsys.readouterr().out
    assert "30 samples" in plain(first)
    assert main(["evaluate", str(tmp_path / "a.npz"), *shared]) == 0
    records = json.loads((tmp_path / "r.json").read_text())
    assert records
    assert all(record["num_fake"] == 30 for record in records)


@pytest.mark.parametrize("command", ["models", "recipes", "doctor"])
def test_listing(command, capsys):
    assert main([command]) == 0
    out = capsys.readouterr().out
    assert out
    if command == "recipes":
        assert all(name in out for name in recipe_names())


@pytest.mark.parametrize(
    "command", [[], ["train"], ["sample"], ["interpolate"], ["evaluate"], ["convert"]]
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert "usage: trilemma" in capsys.readouterr().out


def test_version_and_module():
    call = [sys.executable, "-m", "trilemma", "--version"]
    done = subprocess.run(call, env=ENV, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"trilemma \d+\.\d+\.\d+\S*\n", done.stdout)


# ------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["trian"], "invalid choice"),
        (["models", "--verbose"], "unrecognized arguments: --verbose"),
        (["sample", "x"], "-o"),
        (["sample", "x", "-o", "a.png", "-n", "many"], "-n"),
        (["convert", "nvae", "x", "--config", "cifar10", "-o", "x"], "invalid choice"),
    ],
    ids=str,
)
def test_words_that_argparse_refuses(arguments, words, capsys):
    fails(arguments, words, capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such"], r"no recipe 'no-such'; .*Allowed"),
        (["ddgan-cifar"], "did you mean 'ddgan-cifar10'"),
        (["missing.yaml"], r"missing\.yaml does not exist"),
        (["ddgan-mnist", "extra"], "unexpected argument 'extra'"),
        (["ddgan-mnist", "--trainer.batch_sise", "4"], "did you mean 'batch_size'"),
        (["ddgan-mnist", "--method.generator.chanels", "4"], "did you mean 'channels'"),
        (["ddgan-mnist", "--nothing", "4"], "nothing"),
        (["ddgan-mnist", "--trainer.batch_size"], "--trainer.batch_size needs a value"),
        (["ddgan-mnist", "--trainer.batch_size", "four"], "batch_size"),
        (["ddgan-mnist", "--trainer.batch_size", "0"], "batch_size=0"),
        (["ddgan-mnist", "--trainer.batch_size", "[4"], "not a YAML value"),
        (["ddgan-mnist", "--method.num_steps", "0"], "num_steps"),
        (["ddgan-mnist", "--method.generator.channels", "6"], "channels"),
        (["ddgan-mnist", "--method.generator.patch_size", "0"], "patch_size"),
        (["ddgan-mnist", "--method.generator.image_size", "30"], "image_size|shape"),
        (["ddgan-mnist", "--method.generator.block", "bigan"], "did you mean 'biggan'"),
        (["ddgan-mnist", "--trainer.precision", "fp8"], "precision"),
        (["ddgan-mnist", "--trainer.ema_decay", "2.0"], "ema_decay"),
        (["ddgan-mnist", "--trainer.num_samples", "0"], "num_samples=0 must be at least 1"),
        (["ddgan-mnist", "--trainer.sample_images", "-1"], "sample_images=-1 must be at least 0"),
        (["ddgan-mnist", "--trainer.optimizers.generator.lr", "-1.0"], "lr"),
        (["ddgan-25gaussians", "--data", "grid26"], "did you mean 'grid25'"),
    ],
    ids=str,
)
def test_training_mistakes(arguments, words, capsys, tmp_path, pictures):
    call = ["train", *arguments, "--out", tmp_path / "run"]
    if arguments[0] == "ddgan-mnist":
        call[2:2] = ["--data", str(pictures)]
    fails(call, words, capsys)
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_training_data_mistakes(capsys, tmp_path, pictures):
    out = ["--out", tmp_path / "run", *TINY]
    fails(["train", "ddgan-mnist", "--data", tmp_path / "none", *out], "none", capsys)
    (tmp_path / "empty").mkdir()
    fails(["train", "ddgan-mnist", "--data", tmp_path / "empty", *out], "empty", capsys)
    other = write_pictures(tmp_path / "other.npz", 8, 12, 1)
    fails(["train", "ddgan-mnist", "--data", other, *out], r"\(1, 12, 12\)", capsys)
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    fails(["train", "ddgan-mnist", "--data", tmp_path / "bad.npz", *out], "bad.npz", capsys)
    np.save(tmp_path / "one.npy", np.zeros((4, 28, 28, 1), np.uint8))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    words = r"one\.npz .*holds a single array"
    fails(["train", "ddgan-mnist", "--data", tmp_path / "one.npz", *out], words, capsys)
    fails(["evaluate", tmp_path / "one.npz", "--data", pictures], words, capsys)
    call = ["train", "ddgan-mnist", "--data", pictures, *out, "--data.split", "validation"]
    fails(call, "validation", capsys)


def test_a_run_is_not_overwritten(trained, pictures, capsys):
    before = (trained / "config.yaml").read_text()
    call = ["train", "ddgan-mnist", "--data", pictures, "--out", trained, *TINY]
    fails([*call, "--trainer.seed", "5"], "already holds a training run.*--resume", capsys)
    assert (trained / "config.yaml").read_text() == before


def test_a_batch_that_the_discriminator_cannot_group(pictures, tmp_path, capsys):
    call = ["train", "ddgan-mnist", "--data", pictures, "--out", tmp_path / "run", *TINY]
    fails([*call, "--trainer.batch_size", "6"], "multiple of 4", capsys)


def test_resuming_another_network(trained, pictures, tmp_path, capsys):
    call = ["train", "ddgan-mnist", "--data", pictures, "--out", trained, *TINY, "--resume"]
    fails([*call, "--method.generator.channels", "8"], "fit|shape|another|other", capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "a.jpeg"], r"a\.jpeg.*\.png or \.npz"),
        (["-o", "a.png", "-n", "0"], "--num 0"),
        (["-o", "a.png", "--batch-size", "0"], "--batch-size 0"),
        (["-o", "a.png", "--steps", "3"], "trained on 4 steps.*cannot sample in 3"),
        (["-o", "a.png", "--class-label", "1"], "without labels"),
        (["-o", "a.png", "--device", "tpu"], "--device tpu"),
        (["-o", "a.png", "--device", "cuda:99"], "--device cuda:99"),
        (["-o", "a.png", "--device", "meta"], "--device meta: .*no data"),
        (["-o", "a.png", "--heat", "1"], "unrecognized arguments"),
        (["-o", "a.png", "--temperature", "-1"], r"temperature=-1\.0 must be a finite number >= 0"),
        (["-o", "a.png", "--temperature", "inf"], r"temperature=inf must be a finite number"),
        (["-o", "a.npz", "--trajectory", "3"], "--trajectory 3 needs.*-o out.png"),
        (["-o", "a.png", "--trajectory", "1"], "at least 2 states"),
        (["-o", "a.png", "--trajectory", "9"], "there are 5 states on the way"),
    ],
    ids=str,
)
def test_sampling_mistakes(trained, arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(["sample", trained, "-n", "2", *arguments], words, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["-1", "10", "99"])
def test_unknown_class_labels(conditional, label, capsys, tmp_path):
    call = ["sample", conditional, "-n", "2", f"--class-label={label}", "-o", tmp_path / "a.png"]
    fails(call, rf"class_label={label} is not in 0\.\.9", capsys)


def test_unknown_models(trained, tmp_path, capsys):
    out = ["-o", tmp_path / "a.png"]
    fails(["sample", "ddgan-mnits", *out], "ddgan-mnits", capsys)
    fails(["sample", tmp_path / "no.safetensors", *out], "cannot read", capsys)
    fails(["sample", tmp_path, *out], "cannot read|no model", capsys)
    whole = (trained / "model.safetensors").read_bytes()
    for name, data in {
        "empty": b"",
        "short": whole[: len(whole) // 2],
        "text": b"hello world, this is not a model",
        "changed": whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:],
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        fails(["sample", path, *out], f"{name}.safetensors", capsys)
    checkpoint = next((trained / "checkpoints").iterdir())
    fails(["sample", checkpoint, *out], "training", capsys)
    assert not (tmp_path / "a.png").exists()


def test_evaluation_mistakes(trained, pictures, tmp_path, capsys):
    data = ["--data", pictures]
    fails(["evaluate", trained, "--data", tmp_path / "none", "-n", "4"], "none", capsys)
    call = ["evaluate", trained, *data, "-n", "4"]
    fails([*call, "--split", "validation"], "validation", capsys)
    fails(["evaluate", trained, *data, "-n", "0"], "-n|num|at least", capsys)
    fails(["evaluate", trained, *data, "-n", "4", "--extractor", "vgg"], "vgg", capsys)
    fails(["evaluate", tmp_path / "none.npz", *data], r"none\.npz", capsys)
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    fails(["evaluate", tmp_path / "bad.npz", *data], r"bad\.npz", capsys)
    np.savez(tmp_path / "other.npz", arr_0=np.zeros((4, 4)))
    fails(["evaluate", tmp_path / "other.npz", *data], r"other\.npz holds float64", capsys)
    few = write_pictures(tmp_path / "few.npz", 4, 28, 1)
    fails(["evaluate", few, *data, "-n", "10"], "4 samples", capsys)


def test_conversion_mistakes(tmp_path, capsys):
    out = ["-o", tmp_path / "m.safetensors"]
    call = ["convert", "ddgan", tmp_path / "none.pth"]
    fails([*call, "--config", "cifar10", *out], r"none\.pth", capsys)
    fails([*call, "--config", "cifar", *out], "did you mean 'cifar10'", capsys)
    fails([*call, "--config", tmp_path / "none.json", *out], r"none\.json", capsys)
    fails([*call, "--config", "cifar10", "-o", tmp_path / "m.pth"], r"m\.pth", capsys)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    call = ["convert", "ddgan", tmp_path / "other.pth", "--config", "cifar10", *out]
    fails(call, "does not fit", capsys)
    torch.save([1, 2], tmp_path / "list.pth")
    call = ["convert", "ddgan", tmp_path / "list.pth", "--config", "cifar10", *out]
    fails(call, r"list\.pth", capsys)


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("trilemma.commands.about._models", interrupt)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "trilemma: error: interrupted\n"


# ---------------------------------------------------------------- demo


def test_demo_compares_the_bundled_models(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "ddgan-mnist", "gan-mnist", "-n", "64", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    table = text[text.index("model ") :]  # below the lines of progress
    rows = {line.split()[0]: line.split() for line in table.splitlines() if "-mnist" in line}
    assert rows["ddgan-mnist"][1:3] == ["ancestral-4", "4"]
    assert rows["gan-mnist"][1:3] == ["ancestral-1", "1"]
    for row in rows.values():
        assert 0 < float(row[4]) < 60  # distance; untrained networks are beyond 80
    assert f"the page: {out / 'report.html'}" in text.replace("\n", "")
    assert (out / "report.html").stat().st_size > 20_000


def test_a_folder_of_other_pictures_is_refused(tmp_path, capsys):
    out = tmp_path / "drawn"
    call = ["sample", "gan-mnist", "-n", 3, "-o", out]
    assert main([str(word) for word in call]) == 0
    assert main([str(word) for word in call]) == 0  # the same again
    fails(["sample", "gan-mnist", "-n", 2, "-o", out], "holds 000002.png and 0 more", capsys)
    assert len(list(out.iterdir())) == 3


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA out of memory.")])
def test_a_lack_of_memory_is_one_line(error, monkeypatch, capsys):
    def run(options):
        raise error

    monkeypatch.setattr(about, "_demo", run)
    fails(["demo"], "out of memory; take smaller batches", capsys, code=1)


def test_a_loss_that_is_not_finite_is_a_failure_and_not_a_wrong_call(tmp_path, pictures, capsys):
    call = ["train", "ddgan-mnist", "--data", str(pictures), "--out", str(tmp_path / "run"), *TINY]
    rate = ["--trainer.optimizers.discriminator.lr", "1e30"]
    fails([*call, *rate], "not finite.*there is no checkpoint yet", capsys, code=1)
    fails([*call, "--trainer.optimizers.discriminator.lr", "1e39"], r"at most 1e\+30", capsys)


def test_resuming_keeps_the_settings_until_it_works(trained, capsys):
    before = (trained / "config.yaml").read_text()
    call = ["train", str(trained / "config.yaml"), "--out", str(trained), "--resume"]
    wider = ["--method.generator.channels", "8", "--method.discriminator.channels", "8"]
    fails([*call, *wider], "other networks than the recipe describes", capsys)
    fails([*call, "--trainer.batch_size", "2"], "batch_size 4.*resume with 4", capsys)
    fails([*call, "--trainer.seed", "5"], "seed 0.*resume with 0", capsys)
    assert (trained / "config.yaml").read_text() == before
    assert main([*call, "--trainer.log_every", "3"]) == 0
    assert "resuming with other settings: trainer.log_every" in plain(capsys.readouterr().out)
    (trained / "config.yaml").write_text(before)


def test_the_hub_does_not_report_its_retries():
    """Its loggers are made when it is loaded, after our first line."""
    code = "import logging, trilemma.cli as c; c.main(['recipes']); import huggingface_hub as h;"
    code += "import huggingface_hub.utils._http;"
    code += "print('level', logging.getLogger('huggingface_hub').getEffectiveLevel())"
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "level 40", done.stderr


@pytest.mark.parametrize(
    "call",
    [
        ["evaluate", "ddgan-mnist", "--data", "digits", "--json"],
        ["likelihood", "ddpm-mnist", "--data", "digits", "--json"],
        ["features", "--data", "digits", "-o"],
        ["interpolate", "ddgan-mnist", "-o"],
        ["convert", "ddgan", "a.pth", "--config", "cifar10", "-o"],
    ],
    ids=lambda call: call[0],
)
def test_a_folder_is_no_file_to_write(call, tmp_path, capsys):
    for name in (".", str(tmp_path)):
        with pytest.raises(SystemExit) as stopped:
            main([*call, name])
        assert stopped.value.code == 2
        assert f"{name} is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "call",
    [
        "sample no-such-model -o",
        "edit no-such-model no.png -o",
        "evaluate no-such-model --data digits --json",
        "likelihood no-such-model --data digits --json",
        "interpolate no-such-model -o",
        "reconstruct no-such-model --data digits -o",
        "features --data no-such-data -o",
        "convert ddgan no.pth --config cifar10 -o",
        "train no-such-recipe --out",
        "demo no-such-model --out",
    ],
    ids=lambda call: call.split()[0],
)
def test_output_that_cannot_be_written_is_refused_before_anything_else(call, tmp_path, capsys):
    """Also for a user who may write everywhere, as permissions would say."""
    (tmp_path / "file").write_text("kept")
    places = [tmp_path / "file" / "a.png", tmp_path / "file" / "b" / "a.png", "/proc/none/a.png"]
    if call.split()[0] in ("sample", "edit", "train", "demo"):
        places.append(tmp_path / "file")  # is no folder
    for place in places:
        fails([*call.split(), place], "is no folder to write to .*; give another name", capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_full_disk_is_a_failure_and_not_a_wrong_call(tmp_path, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for name in ("a.png", "a.npz", "folder"):
        call = ["sample", "gan-mnist", "-n", 1, "-o", tmp_path / name]
        fails(call, "cannot write .*No space left on device", capsys, code=1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
