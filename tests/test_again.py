"""Dated results made again: what counts as moved, and that every result says how it was made."""

import datetime
import hashlib
import importlib.util
import json
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
RESULTS = BENCHMARKS / "results"
ENTRIES = yaml.safe_load((RESULTS / "commands.yaml").read_text())


@pytest.fixture(scope="module")
def again():
    spec = importlib.util.spec_from_file_location("again", BENCHMARKS / "again.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["again"] = module  # where the dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["again"]


def verdicts(again, then, now, *rules, no_times=""):
    rows = again.compare(then, now, rules, no_times=no_times)
    return {row.figure: row.verdict.split(":")[0] for row in rows}


@pytest.mark.parametrize(
    ("now", "expected"),
    [(1.4, "same"), (1.43, "moved"), (0.6, "same"), (0.57, "moved"), (float("nan"), "moved")],
)
def test_estimates_move_beyond_three_standard_errors_of_both(again, now, expected):
    """sqrt(0.1^2 + 0.1^2) * 3 = 0.424."""
    rule = {"path": "value", "estimate": "error"}
    then, now = {"value": 1.0, "error": 0.1}, {"value": now, "error": 0.1}
    assert verdicts(again, then, now, rule) == {"value": expected}


def test_half_intervals_become_standard_errors(again):
    """3 * 0.51 * sqrt(2) * 0.196 = 0.424."""
    rule = {"path": "nats", "estimate": "nats_interval", "times": 0.51}
    then = {"nats": -1.0, "nats_interval": 0.196}
    assert verdicts(again, then, then | {"nats": -1.42}, rule) == {"nats": "same"}
    assert verdicts(again, then, then | {"nats": -1.43}, rule) == {"nats": "moved"}


def test_estimates_without_an_error(again):
    rule = {"path": "value", "estimate": "error"}
    then = {"value": 1.0, "error": None}
    assert verdicts(again, then, then, rule) == {"value": "cannot compare"}
    stated = {"path": "value", "estimate": 0.1}
    assert verdicts(again, then, {"value": 1.4}, stated) == {"value": "same"}
    assert verdicts(again, then, {"value": 1.5}, stated) == {"value": "moved"}


@pytest.mark.parametrize(
    ("now", "no_times", "expected"),
    [
        (2.0, "", "same"),
        (0.5, "", "same"),
        (2.1, "", "moved"),
        (0.45, "", "moved"),
        (9.0, "other hardware", "cannot compare"),
        (0.0, "", "cannot compare"),
    ],
)
def test_times_move_by_a_factor_on_the_same_hardware(again, now, no_times, expected):
    rule = {"path": "s", "time": 2}
    assert verdicts(again, {"s": 1.0}, {"s": now}, rule, no_times=no_times) == {"s": expected}


def test_fixed_figures_and_counts(again):
    fixed = {"path": "x", "fixed": 0.01}
    assert verdicts(again, {"x": -2.0}, {"x": -2.019}, fixed) == {"x": "same"}
    assert verdicts(again, {"x": -2.0}, {"x": -2.021}, fixed) == {"x": "moved"}
    assert verdicts(again, {"x": 0.0}, {"x": 1e-9}, fixed) == {"x": "moved"}
    exact = {"path": "x", "exact": True}
    assert verdicts(again, {"x": 25}, {"x": 25}, exact) == {"x": "same"}
    assert verdicts(again, {"x": 25}, {"x": 24}, exact) == {"x": "moved"}
    assert verdicts(again, {"x": "train"}, {"x": "test"}, exact) == {"x": "moved"}


def test_what_is_gone_moved_and_what_is_new_cannot_be_compared(again):
    rule = {"path": "*", "fixed": 0.1}
    found = verdicts(again, {"a": 1.0, "b": 1.0}, {"b": 1.0, "c": 1.0}, rule)
    assert found == {"a": "moved", "b": "same", "c": "cannot compare"}
    assert verdicts(again, {"a": 1.0}, {"a": None}, rule) == {"a": "moved"}


def test_the_first_rule_counts_and_others_are_no_figures(again):
    rules = {"path": "a/*", "exact": True}, {"path": "*", "fixed": 0.5}
    then, now = {"a": {"x": 1.0}, "b": 1.0}, {"a": {"x": 1.1}, "b": 1.1}
    assert verdicts(again, then, now, *rules) == {"a/x": "moved", "b": "same"}
    assert verdicts(again, then, now, rules[0]) == {"a/x": "moved"}


def test_rows_are_matched_by_what_tells_them_apart_not_by_their_order(again):
    def made(*rows):
        names = ("model", "sampler", "calls", "fd")
        return {"rows": [dict(zip(names, row, strict=True)) for row in rows]}

    then = made(("lsgm", "gddim", 10, 1.0), ("lsgm", "gddim", 20, 2.0), ("ddpm", "gddim", 20, 3.0))
    now = made(("ddpm", "gddim", 20, 3.0), ("lsgm", "gddim", 20, 9.0), ("lsgm", "gddim", 10, 1.0))
    found = verdicts(again, then, now, {"path": "*/fd", "fixed": 0.01})
    assert found == {
        "rows/lsgm, 10/fd": "same",
        "rows/lsgm, 20/fd": "moved",
        "rows/ddpm, 20/fd": "same",
    }
    assert again.flatten([{"x": 1}, {"x": 2}]) == {"0/x": 1, "1/x": 2}
    assert again.flatten([{"name": "fd", "x": 1}]) == {"fd/name": "fd", "fd/x": 1}


def test_hardware_is_read_from_the_name_of_a_file(again):
    assert again.is_hardware("epyc-1-thread", "AMD EPYC 9R14")
    assert not again.is_hardware("epyc-1-thread", "Intel(R) Xeon(R)")
    assert not again.is_hardware("epyc-1-thread", "")


def test_a_machine_is_busy_if_our_threads_have_no_processors(again):
    assert not again.busy(0.0, 1, 1) and not again.busy(1.0, 1, 2) and not again.busy(0.3, 2, 2)
    assert "2.0 other processes on 2 processors" in again.busy(2.0, 1, 2)
    assert again.busy(0.8, 2, 2)


def test_newest_file_of_a_result(again, tmp_path):
    for name in ("a_epyc-1_2026-11", "a_h100_2027-02", "a_epyc-1_2026-12-30", "a_b_epyc-1_2028-01"):
        (tmp_path / f"{name}.json").write_text("{}")
    assert again.newest("a", tmp_path) == (tmp_path / "a_h100_2027-02.json", "h100")
    with pytest.raises(SystemExit, match="no result c"):
        again.newest("c", tmp_path)


def test_old_files_are_never_written_over(again, tmp_path):
    day = datetime.date(2026, 11, 24)
    first = again.write({"x": 1}, "a", "epyc", tmp_path, day)
    second = again.write({"x": 2}, "a", "epyc", tmp_path, day)
    assert [first.name, second.name] == ["a_epyc_2026-11.json", "a_epyc_2026-11-24.json"]
    assert json.loads(first.read_text()) == {"x": 1}
    with pytest.raises(SystemExit, match="exists"):
        again.write({"x": 3}, "a", "epyc", tmp_path, day)


def test_a_result_is_run_again(again):
    """One command that prints, and one that is run for every combination."""
    one = {"command": "python -c \"print('[3]')\" > {out}"}
    assert again.run(one, {}) == [3]
    write_file = "import sys, json; json.dump([sys.argv[2]], open(sys.argv[1], 'w'))"
    each = {
        "command": [f'python -c "{write_file}" {{out}} {{table}}{{seed}}'],
        "each": {"table": ["wine"], "seed": [0, 1]},
        "names": {"table": "data"},
        "as": "records",
    }
    assert again.run(each, {}) == {
        "rows": [
            {"data": "wine", "seed": 0, "records": ["wine0"]},
            {"data": "wine", "seed": 1, "records": ["wine1"]},
        ]
    }
    with pytest.raises(RuntimeError, match="no such thing"):
        again.run({"command": "python -c \"raise ValueError('no such thing')\" > {out}"}, {})
    with pytest.raises(RuntimeError, match="ended by SIGTERM"):
        again.run({"command": 'python -c "import os; os.kill(os.getpid(), 15)"'}, {})


def test_models_that_do_not_ship_are_asked_for(again):
    entry = ENTRIES["lsgm-mnist-binary-bound"]
    assert again.unknown_words(entry, {"data", "out"}) == ["lsgm-mnist-binary"]
    assert again.unknown_words(ENTRIES["tables"], {"out", "scratch"}) == []


def test_every_dated_result_says_how_it_was_made():
    named = {path.stem.rsplit("_", 2)[0] for path in RESULTS.glob("*.json")}
    assert named == set(ENTRIES)


def test_no_result_names_a_place_on_a_machine():
    for path in RESULTS.glob("*.json"):
        text = path.read_text()
        assert not any(word in text for word in ("/tmp/", "/home/", "../")), path.name


def test_the_report_is_of_the_models_that_ship(again):
    """A bundled model that is replaced takes its rows, and the pictures, with it."""
    report = json.loads(again.newest("report-digits")[0].read_text())
    found = {}
    for model in report["models"]:
        file = resources.files("trilemma") / "zoo" / "models" / f"{model['name']}.safetensors"
        found[model["name"]] = hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(found) == 6
    assert found == {model["name"]: model["sha256"] for model in report["models"]}


@pytest.mark.parametrize("what", ENTRIES)
def test_a_result_is_the_same_as_itself_and_its_rules_have_figures(again, what):
    entry = ENTRIES[what]
    path, hardware = again.newest(what)
    result = json.loads(path.read_text())
    rows = again.compare(result, result, entry["figures"])
    assert rows and {row.verdict for row in rows} == {"same"}
    assert again.is_hardware(hardware, "AMD EPYC") == ("epyc" in hardware)
    assert entry["minutes"] > 0


def test_every_script_that_is_named_exists():
    for entry in ENTRIES.values():
        commands = entry["command"] if isinstance(entry["command"], list) else [entry["command"]]
        for command in commands:
            program, first = command.split()[:2]
            assert program in ("trilemma", "python", "cp")
            assert program != "python" or (BENCHMARKS.parent / first).exists(), command
