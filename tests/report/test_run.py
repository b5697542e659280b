"""Running a report: figures of their cells, broken models, killed runs, several processes."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from trilemma.checkpoints import store
from trilemma.cli import main
from trilemma.data import BundledDigits
from trilemma.errors import CheckpointError, ConfigError, DataError, WriteError
from trilemma.evaluation import evaluate_samples, read_npz, reference_data
from trilemma.images import save_images, to_uint8
from trilemma.metrics import DigitFeatures, mnist_reference
from trilemma.pipeline import bundled_models, load
from trilemma.report.entries import open_models
from trilemma.report.ladder import Rung, read_ladder
from trilemma.report.measure import Protocol, speed_of, time_sampling
from trilemma.report.record import Report, Speed
from trilemma.report.run import run_report
from trilemma.training.features import fit_features, read_labelled, save_features

NUM = 48
PROTOCOL = Protocol("digits", "test", NUM, seed=3, batch_size=32)
FAST = {"patience": 0.01, "ladder": (Rung(),)}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    path = tmp_path_factory.mktemp("broken") / "broken.safetensors"
    path.write_bytes(bundled_models()["ddgan-mnist"].read_bytes()[:-100])
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, broken):
    """A report of two good models, a broken one, an absent one and a file of samples."""
    folder = tmp_path_factory.mktemp("report")
    digits = folder / "digits.npz"
    save_images(digits, mnist_reference().images[:NUM])
    models = ["ddgan-mnist", str(broken), "no-such-model", "ddgan-mnist", str(digits)]
    report = run_report(models, PROTOCOL, folder / "out", likelihood_num=4, **FAST)
    return report, folder / "out"


def figures(report):
    return {cell.key: cell.records for cell in report.cells}


def test_figures_are_those_of_evaluate(finished):
    report, folder = finished
    drawn = to_uint8(load("ddgan-mnist").sample(NUM, seed=3, batch_size=NUM))
    data = reference_data("digits", "test", (1, 28, 28))
    expected = evaluate_samples(drawn, data, NUM, split="test", seed=3)
    cell = report.cells[0]
    assert cell.key == "ddgan-mnist/ancestral-4"
    assert (cell.nfe, cell.steps, cell.is_default) == (4, 4, True)
    found = {record.name: record for record in cell.records}
    assert set(found) == {record.name for record in expected}
    for record in expected:
        assert found[record.name].value == pytest.approx(record.value, rel=1e-6, abs=1e-9)
    with np.load(folder / cell.pictures) as archive:
        assert np.array_equal(archive["samples"], drawn.permute(0, 2, 3, 1).numpy())
    assert sum(cell.class_counts) == sum(cell.real_class_counts) == NUM
    assert len(report.data["class_names"]) == len(cell.class_counts) == 10


def test_models_that_cannot_be_read_have_a_row_with_the_reason(finished):
    report, _ = finished
    errors = {model.name: model.error for model in report.models}
    assert list(errors) == ["ddgan-mnist", "broken", "no-such-model", "ddgan-mnist-2", "digits"]
    assert "broken" in errors["broken"]
    assert "no model 'no-such-model'" in errors["no-such-model"]
    assert not errors["ddgan-mnist"] and not errors["ddgan-mnist-2"]
    assert {cell.model for cell in report.cells} == {"ddgan-mnist", "ddgan-mnist-2", "digits"}


def test_the_pictures_of_a_cell_can_be_judged_again(finished):
    report, folder = finished
    images = read_npz(folder / report.cells[0].pictures)
    data = reference_data("digits", "test", (1, 28, 28))
    again = evaluate_samples(images, data, NUM, split="test", seed=3)
    values = {record.name: record.value for record in report.cells[0].records}
    assert {record.name: record.value for record in again} == pytest.approx(values, rel=1e-5)


def test_samples_from_a_file_are_judged_and_not_timed(finished):
    report, _ = finished
    cell = next(report.measured("digits"))
    assert cell.nfe == 0 and not cell.speed
    assert cell.value("coverage") > 0.9
    assert report.family_of(cell) == "samples"


def test_times_memory_and_likelihood_are_there_or_explained(finished):
    report, _ = finished
    cell = report.cells[0]
    assert [speed.batch_size for speed in cell.speed] == [1, 32]
    for speed in cell.speed:
        assert 0 < speed.fastest <= speed.ms_per_image <= speed.slowest
    assert cell.milliseconds() == cell.speed[1].ms_per_image
    assert cell.memory_batch == 32
    assert cell.peak_memory is None or 2**16 < cell.peak_memory < 2**31
    assert "score" in report.models[0].likelihood["note"]
    assert report.models[0].num_parameters == sum(
        p.numel() for p in load("ddgan-mnist").method.generator.parameters()
    )


def test_time_of_repeats_is_their_median():
    """Drawings of four samples that took 8, 40, 4 and 10 seconds: 1, 2, 2.5 and 10 s a sample."""
    found = speed_of([8.0, 40.0, 4.0, 10.0], 4)
    assert found == Speed(
        batch_size=4, ms_per_image=2250.0, fastest=1000.0, slowest=10_000.0, repeats=4
    )
    assert speed_of([8.0, 40.0, 4.0], 4).ms_per_image == 2000.0


def test_the_report_is_on_disk_in_three_forms(finished):
    report, folder = finished
    again = Report.from_json((folder / "report.json").read_text())
    assert again.to_json() == report.to_json()
    page = (folder / "report.html").read_text()
    assert "ddgan-mnist" in page and "no-such-model" in page
    assert "ddgan-mnist" in (folder / "report.md").read_text()
    assert not list(folder.glob("cells/**/*.shards"))


def test_what_was_measured_is_not_measured_again(finished):
    report, folder = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")}
    assert len(before) >= 7
    again = run_report(["ddgan-mnist"], PROTOCOL, folder, **FAST)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.cells[0] == report.cells[0]


@pytest.mark.parametrize("change", [{"seed": 4}, {"num": 40}])
def test_another_protocol_is_measured_again(finished, change, tmp_path):
    report, _ = finished
    first = run_report(["ddgan-mnist"], PROTOCOL, tmp_path, **FAST)
    options = {"data": "digits", "split": "test", "num": NUM, "seed": 3, "batch_size": 32}
    second = run_report(["ddgan-mnist"], Protocol(**(options | change)), tmp_path, **FAST)
    assert figures(first)["ddgan-mnist/ancestral-4"] != figures(second)["ddgan-mnist/ancestral-4"]
    assert figures(first)["ddgan-mnist/ancestral-4"] == report.cells[0].records


def test_several_processes_measure_the_same(finished, tmp_path):
    report, _ = finished
    models = ["ddgan-mnist", "ddgan-mnist"]
    again = run_report(models, PROTOCOL, tmp_path, jobs=2, **FAST)
    expected = {key: records for key, records in figures(report).items() if "ddgan" in key}
    assert figures(again) == expected


def test_a_rung_that_does_not_fit_says_why_and_the_rest_goes_on(tmp_path):
    ladder = read_ladder(["default", "heun:4"])
    report = run_report(["ddgan-mnist"], PROTOCOL, tmp_path, patience=0.01, ladder=ladder)
    good, bad = sorted(report.cells, key=lambda cell: bool(cell.error))
    assert good.records and not bad.records
    assert "heun" in bad.error.lower()
    assert bad.error in (tmp_path / "report.md").read_text().replace("\\", "")


KILLED = """
import sys
from trilemma.report.ladder import Rung
from trilemma.report.measure import Protocol, time_sampling
from trilemma.report.run import run_report
run_report(["ddgan-mnist"], Protocol("digits", "test", 512, seed=5, batch_size=64), sys.argv[1],
           ladder=(Rung(),), patience=0.01)
"""


def test_a_killed_report_continues_with_the_same_figures(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/cells/*/*.shards/*.npz")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shard = next(tmp_path.glob("killed/cells/*/*.shards/*.npz"))
    with np.load(shard) as archive:
        kept = archive["samples"]
    assert not (tmp_path / "killed" / "report.json").exists()
    protocol = Protocol("digits", "test", 512, seed=5, batch_size=64)
    poisoned = 255 - kept  # what was drawn is taken up, not drawn again
    np.savez_compressed(shard, samples=poisoned, nfe=np.array(4))
    taken = run_report(["ddgan-mnist"], protocol, tmp_path / "killed", **FAST)
    with np.load(tmp_path / "killed" / taken.cells[0].pictures) as archive:
        assert np.array_equal(archive["samples"][: len(kept)].transpose(0, 3, 1, 2), poisoned)
        rest = torch.from_numpy(archive["samples"][-64:]).permute(0, 3, 1, 2)
    pipeline = load("ddgan-mnist")
    own = to_uint8(pipeline.sample(64, seed=5, first=448, batch_size=64))
    assert torch.equal(rest, own)
    whole = to_uint8(pipeline.sample(len(kept), seed=5, batch_size=64))
    assert np.array_equal(kept, whole.numpy())


def test_toys_are_compared_by_their_modes(tmp_path):
    from trilemma.config import build_method, resolve
    from trilemma.pipeline import save_pipeline

    entry = {
        "class_path": "DDGAN",
        "init_args": {
            "num_steps": 2,
            "generator": {"class_path": "PointGenerator", "init_args": {"width": 8}},
        },
    }
    entry = resolve({"method": entry})["method"]
    path = tmp_path / "points.safetensors"
    save_pipeline(path, build_method(entry), entry, (2,), card={"scale": 4.0})
    protocol = Protocol("grid25", "train", 100)
    report = run_report([str(path), "ddgan-mnist"], protocol, tmp_path / "out", **FAST)
    cell = next(report.measured())
    assert {"num_modes", "high_quality", "mode_kl"} == {record.name for record in cell.records}
    assert report.data["hardly_seen"] == []
    assert "unevenness, nats" in (tmp_path / "out" / "report.md").read_text()
    assert report.data["kind"] == "points"
    assert "this report compares (2,)" in report.models[1].error


class Clockwork:
    """A pipeline whose first drawing takes longer than the others, by a clock of its own."""

    def __init__(self, first, others):
        self.method, self.waits, self.others = torch.nn.Linear(1, 1), [first], others
        self.now = 0.0

    def sample(self, num, **walk):
        self.now += self.waits.pop() if self.waits else self.others


@pytest.mark.parametrize(
    ("first", "expected"),
    [(0.2, (10.0, 10.0, 5)), (0.29, (10.0, 10.0, 5)), (0.4, (400.0, 400.0, 1))],
)
def test_a_warm_up_is_the_figure_only_where_it_took_all_patience(first, expected, monkeypatch):
    pipeline = Clockwork(first, 0.01)
    monkeypatch.setattr("trilemma.report.measure.time.perf_counter", lambda: pipeline.now)
    single, batch = time_sampling(pipeline, Rung("gddim", 3), 0.05)["speed"]
    assert (single.ms_per_image, single.slowest, single.repeats) == pytest.approx(expected)
    assert batch.ms_per_image == pytest.approx(10 / 64)


def test_a_row_that_cannot_be_timed_keeps_its_figures(tmp_path, monkeypatch):
    def fails(*arguments):
        raise MemoryError

    monkeypatch.setattr("trilemma.report.run.time_sampling", fails)
    report = run_report(["ddgan-mnist"], PROTOCOL, tmp_path, **FAST)
    cell = report.cells[0]
    assert cell.records and not cell.speed and cell.time_note == "MemoryError"
    assert "ddgan-mnist" in (tmp_path / "report.html").read_text()


def test_a_device_that_is_not_there_is_said_in_a_row(tmp_path):
    protocol = Protocol("digits", "test", NUM, device="gpu")
    with pytest.raises(CheckpointError, match="device 'gpu'"):
        run_report(["ddgan-mnist"], protocol, tmp_path, **FAST)


def test_names_are_those_of_folders_and_files(tmp_path, monkeypatch):
    weights = bundled_models()["ddgan-mnist"].read_bytes()
    for name in ("lr-0.1", "lr-0.5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    monkeypatch.chdir(tmp_path / "lr-0.1")
    words = [".", "model.safetensors", "../lr-0.5", "../lr-0.5/model.safetensors"]
    names = [entry.model.name for entry in open_models(words, "cpu")]
    assert names == ["lr-0.1", "lr-0.1-2", "lr-0.5", "lr-0.5-2"]


def test_a_test_split_that_came_later_is_taken_into_account(tmp_path):
    images = mnist_reference().images
    save_images(tmp_path / "data" / "train", images[:60])
    protocol = Protocol(str(tmp_path / "data"), "train", 24)
    first = run_report(["ddgan-mnist"], protocol, tmp_path / "out", **FAST)
    assert "lacks one" in first.cells[0].memorisation["note"]
    save_images(tmp_path / "data" / "test", images[60:100])
    second = run_report(["ddgan-mnist"], protocol, tmp_path / "out", **FAST)
    assert second.cells[0].memorisation["num_held_out"] == 40


def test_too_small_a_test_split_is_a_note_and_not_the_rows_failure(tmp_path):
    images = mnist_reference().images
    save_images(tmp_path / "data" / "train", images[:60])
    save_images(tmp_path / "data" / "test", images[60:70])
    protocol = Protocol(str(tmp_path / "data"), "train", 24)
    cell = run_report(["ddgan-mnist"], protocol, tmp_path / "out", **FAST).cells[0]
    assert cell.records and "10 held-out" in cell.memorisation["note"]


def test_samples_of_a_file_that_are_too_few_or_damaged_have_a_row(tmp_path):
    save_images(tmp_path / "few.npz", mnist_reference().images[:30])
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    models = ["ddgan-mnist", str(tmp_path / "few.npz"), str(tmp_path / "array.npz")]
    report = run_report(models, PROTOCOL, tmp_path / "out", **FAST)
    assert "holds 30 samples, fewer than the 48" in report.cells[1].error
    assert "array.npz is not a readable .npz file" in report.models[2].error


@pytest.mark.parametrize("holds", ["text", "objects"])
def test_a_file_of_another_kind_is_not_to_be_unpickled(holds, tmp_path):
    """NumPy advises to load it "unsafely", by an option that there is not."""
    path = tmp_path / "foreign.npz"
    if holds == "text":
        path.write_text("not an archive")
    else:
        np.savez(path, np.array([None, "a"], dtype=object))
    with pytest.raises(DataError) as caught:
        read_npz(path)
    assert "foreign.npz is not an .npz file" in str(caught.value)
    assert "pickle" not in str(caught.value)


def test_a_misfit_in_the_first_place_has_a_row_and_the_rest_goes_on(tmp_path):
    pictures = torch.zeros(NUM, 3, 32, 32, dtype=torch.uint8)
    save_images(tmp_path / "colour.npz", pictures)
    models = [str(tmp_path / "colour.npz"), "gan-mnist"]
    report = run_report(models, PROTOCOL, tmp_path / "out", **FAST)
    assert "draws (3, 32, 32), this report compares (1, 28, 28)" in report.models[0].error
    assert [cell.model for cell in report.measured()] == ["gan-mnist"]
    with pytest.raises(ConfigError, match=r"\(3, 32, 32\)"):
        run_report(models[:1], PROTOCOL, tmp_path / "alone", **FAST)


def test_weights_that_make_no_numbers_fail_their_row(tmp_path):
    pipeline = load("gan-mnist")
    torch.nn.init.constant_(next(pipeline.method.generator.parameters()), float("nan"))
    stored = store.read(bundled_models()["gan-mnist"], "pipeline")
    tensors = pipeline.method.sampling_state()
    store.write(tmp_path / "broken.safetensors", "pipeline", tensors, stored.header)
    models = [str(tmp_path / "broken.safetensors"), "gan-mnist"]
    report = run_report(models, PROTOCOL, tmp_path / "out", **FAST)
    assert "not finite" in report.cells[0].error
    assert [cell.model for cell in report.measured()] == ["gan-mnist"]


def test_more_patience_times_again(tmp_path):
    first = run_report(["ddgan-mnist"], PROTOCOL, tmp_path, **FAST)
    kept = next(tmp_path.glob("cells/*/*.time.json"))
    before = kept.read_text()
    run_report(["ddgan-mnist"], PROTOCOL, tmp_path, **(FAST | {"patience": 0.005}))
    assert kept.read_text() == before
    again = run_report(["ddgan-mnist"], PROTOCOL, tmp_path, **(FAST | {"patience": 0.02}))
    assert json.loads(kept.read_text())["patience"] == 0.02
    assert again.cells[0].records == first.cells[0].records


@pytest.fixture(scope="module")
def cheap(tmp_path_factory):
    """A report of one fast model, with its likelihood's note; and its folder."""
    folder = tmp_path_factory.mktemp("cheap") / "out"
    options = FAST | {"likelihood_num": 2, "patience": 0.001}
    return run_report(["gan-mnist"], PROTOCOL, folder, **options), folder


def in_json(change):
    """A damage to a file of figures that leaves it JSON."""

    def damage(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def another_picture(path):
    """As many pictures of the same shape, and readable, but not those of the figures."""
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez_compressed(path, **arrays | {"samples": 255 - arrays["samples"]})


CELL, PICTURES, TIMES, LIKELIHOOD = (
    f"cells/gan-mnist/{name}"
    for name in ("ancestral-1.json", "ancestral-1.npz", "ancestral-1.time.json", "likelihood.json")
)
DAMAGES = {
    "pictures cut": (PICTURES, lambda path: path.write_bytes(path.read_bytes()[:-500])),
    "pictures emptied": (PICTURES, lambda path: path.write_bytes(b"")),
    "pictures of another program": (PICTURES, lambda path: path.write_text("hello")),
    "pictures replaced": (PICTURES, another_picture),
    "a value changed": (CELL, in_json(lambda c: c["result"]["records"][0].update(value=0.01))),
    "a value of words": (CELL, in_json(lambda c: c["result"]["records"][0].update(value="x"))),
    "calls lost": (CELL, in_json(lambda c: c["result"].update(nfe=None))),
    "copies lost": (CELL, in_json(lambda c: c["result"].update(memorisation=None))),
    "cell without figures": (CELL, in_json(lambda c: c.pop("result"))),
    "cell is a list": (CELL, lambda path: path.write_text("[1]")),
    "times changed": (TIMES, in_json(lambda c: c["figures"]["speed"][0].update(ms_per_image=1e-9))),
    "times lost": (TIMES, in_json(lambda c: c.update(figures=[1]))),
    "times are a list": (TIMES, lambda path: path.write_text("[]")),
    "likelihood is a list": (LIKELIHOOD, in_json(lambda c: c.update(result=[1]))),
    "likelihood lost": (LIKELIHOOD, in_json(lambda c: c.update(result=None))),
}


def test_rows_of_another_revision_are_measured_again(cheap, tmp_path, monkeypatch):
    """What a row measures may change within a version; old rows do not stand beside new ones."""
    shutil.copytree(cheap[1], tmp_path / "out")
    monkeypatch.setattr("trilemma.report.run.REVISION", -1)
    told = []
    options = FAST | {"likelihood_num": 2, "patience": 0.001}
    options["progress"] = lambda text, done, total: told.append(text)
    run_report(["gan-mnist"], PROTOCOL, tmp_path / "out", **options)
    assert not [text for text in told if "was there already" in text]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_damaged_or_changed_is_measured_again(damage, cheap, tmp_path):
    report, folder = cheap
    shutil.copytree(folder, tmp_path / "out")
    name, change = DAMAGES[damage]
    change(tmp_path / "out" / name)
    told = []
    again = run_report(
        ["gan-mnist"],
        PROTOCOL,
        tmp_path / "out",
        **FAST | {"likelihood_num": 2, "patience": 0.001},
        progress=lambda text, done, total: told.append(text),
    )
    done = {"CELL": "ancestral-1", "LIKE": "likelihood"}
    anew = {CELL: done["CELL"], PICTURES: done["CELL"], LIKELIHOOD: done["LIKE"]}.get(name)
    kept = {rung for rung in done.values() if f"gan-mnist/{rung} was there already" in told}
    assert kept == set(done.values()) - {anew}
    cell, first = again.cells[0], report.cells[0]
    assert cell.records == first.records and cell.memorisation == first.memorisation
    assert again.models[0].likelihood == report.models[0].likelihood
    assert (cell.speed == first.speed) == (name != TIMES)
    assert cell.speed[0].ms_per_image > 1e-3
    with np.load(folder / PICTURES) as one, np.load(tmp_path / "out" / PICTURES) as other:
        assert set(one) == set(other) >= {"samples"}
        assert all(np.array_equal(one[key], other[key]) for key in one)
    if name != TIMES:
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_in_the_place_of_pictures_is_said_in_the_row(cheap, tmp_path):
    shutil.copytree(cheap[1], tmp_path / "out")
    (tmp_path / "out" / PICTURES).unlink()
    (tmp_path / "out" / PICTURES).mkdir()
    cell = run_report(["gan-mnist"], PROTOCOL, tmp_path / "out", **FAST).cells[0]
    assert not cell.records and "ancestral-1.npz: it is a folder" in cell.error


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        run_report(["nowhere"], PROTOCOL, tmp_path / "file", **FAST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs=0"),
        ({"patience": 0.0}, "patience=0"),
        ({"likelihood_num": -1}, "likelihood_num=-1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run_report(["ddgan-mnist"], PROTOCOL, tmp_path, **{**FAST, **options})


def test_too_few_samples_or_no_model_at_all_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="num=10"):
        run_report(["ddgan-mnist"], Protocol("digits", "test", 10), tmp_path, **FAST)
    with pytest.raises(CheckpointError, match="no model 'nothing'"):
        run_report(["nothing"], PROTOCOL, tmp_path, **FAST)
    assert not (tmp_path / "report.json").exists()


def test_the_command_prints_a_row_per_cell_and_the_page(tmp_path, capsys):
    words = ["report", "ddgan-mnist", "nowhere", "--data", "digits", "-o", str(tmp_path / "r")]
    words += ["-n", "48", "--ladder", "default", "--jobs", "1", "--patience", "0.01"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "recall" in out and "dens." in out
    assert "nowhere: no model 'nowhere'" in out
    assert str(tmp_path / "r" / "report.html") in out.replace("\n", "")
    command = json.loads((tmp_path / "r" / "report.json").read_text())["command"]
    assert command.startswith("trilemma report ddgan-mnist nowhere --data digits")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ladder", "gdim:3"], "no ladder or sampler"),
        (["--ladder", " "], "--ladder is empty"),
        (["-n", "0"], "--num 0"),
        (["--data", "grid26"], "grid25"),
        (["--split", "train"], "test"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, message, tmp_path, capsys):
    base = ["report", "ddgan-mnist", "--data", "digits", "-o", str(tmp_path / "r")]
    assert main(base + words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_card_of_fitted_features_is_repeated(tmp_path):
    """What ``trilemma features`` said when they were fitted stands in the report as well."""
    fit = fit_features(read_labelled(BundledDigits()), budget=64)
    for name, blur, told in (("weak", 1.2, ["blurred by 1 pixel"]), ("good", 9.0, [])):
        file, out = tmp_path / f"{name}.safetensors", tmp_path / name
        card = {"real": 1.0, "blur": blur, "noise": 20.0}
        save_features(file, dataclasses.replace(fit, card=card), name)
        protocol = Protocol("digits", "test", 24, extractor=str(file))
        report = run_report(["gan-mnist"], protocol, out, **FAST)
        assert report.data["hardly_seen"] == told
        sentence = "hardly see: blurred by 1 pixel. Do not compare models by them"
        assert (sentence in (out / "report.html").read_text()) == bool(told)
        assert (sentence in (out / "report.md").read_text()) == bool(told)


def grey(kind, num, side):
    """Pictures of one kind as a model of digits would be compared with."""
    digits = mnist_reference().images[:num]
    if kind == "digits":
        return digits
    rng = torch.Generator().manual_seed(0)
    blocks = torch.rand(num, 3, 4, 4, generator=rng)
    return (torch.nn.functional.interpolate(blocks, (side, side)) * 255).byte()


def test_data_that_are_no_digits_are_said_to_be_none(tmp_path):
    """Features for digits are chosen by size alone: the report warns, and names no classes."""
    for kind, side in (("blocks", 40), ("digits", 28)):
        for split, where in (("train", slice(0, 60)), ("test", slice(60, 90))):
            save_images(tmp_path / kind / split, grey(kind, 90, side)[where])
    protocol = Protocol(str(tmp_path / "blocks"), "train", 24)
    report = run_report(["gan-mnist"], protocol, tmp_path / "out", **FAST)
    cell = report.cells[0]
    assert cell.distance.name == "fd_digits"
    assert not cell.class_counts and not cell.real_class_counts
    assert report.data["class_names"] == []
    data = reference_data(protocol.data, "train", (1, 28, 28)).images_uint8(range(60))
    most = DigitFeatures().probabilities(data).max(1).values
    assert report.data["unlike_digits"] == pytest.approx(float(most.mean()), rel=1e-5)
    assert report.data["given_shape"] == [3, 40, 40]
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text()
        assert "the real ones hardly look like digits" in text
        assert "grey and 28 x 28 pixels: the first of them was given in colour, in 40 x 40" in text
        assert "All that can be judged are drawn" not in text and "Not judged" not in text

    asked = dataclasses.replace(protocol, extractor="digits")
    named = run_report(["gan-mnist"], asked, tmp_path / "asked", **FAST)
    assert named.data["unlike_digits"] is None and sum(named.cells[0].class_counts) == 24

    fine = dataclasses.replace(protocol, data=str(tmp_path / "digits"))
    other = run_report(["gan-mnist"], fine, tmp_path / "fine", **FAST)
    assert other.data["unlike_digits"] is None and other.data["given_shape"] == []
    assert sum(other.cells[0].class_counts) == 24
    assert "look like digits" not in (tmp_path / "fine" / "report.md").read_text()
    assert "brought to the form" not in (tmp_path / "fine" / "report.md").read_text()


def test_a_demo_that_goes_on_says_that_its_time_is_not_all(tmp_path, capsys):
    call = ["demo", "gan-mnist", "-n", "24", "-o", str(tmp_path / "demo")]
    told = "beside what an earlier run left in the folder"
    for is_continued in (False, True):
        assert main(call) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert (told in text) == is_continued
