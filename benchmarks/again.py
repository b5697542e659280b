"""Make the results of ``benchmarks/results`` again and say what moved.

``benchmarks/results/commands.yaml`` holds the command of each, and which figures count how much as
the same; the newest dated file is the one that a new run is held against. A result that moved is no
failure in itself: it means that code, libraries or models changed what the documentation states.

    python benchmarks/again.py --list
    python benchmarks/again.py --data PATH --only learned-part-digits ddgan-mnist
    python benchmarks/again.py --data PATH --quick --write epyc-1-thread

Prints a table; of figures that are the same only the number, unless ``--all`` is given. Ends with
status 1 if a figure moved, a command failed, or one of ``--only`` could not run. With
``--write HARDWARE`` new files are written, dated today; those of other months stay as they are.
"""

import argparse
import datetime
import fnmatch
import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
QUICK_MINUTES = 3
STANDARD_ERRORS = 3
WORD = re.compile(r"{([\w-]+)}")
NAMES = (
    *("name", "model", "process", "network", "sampler", "line", "data", "seed", "asked", "T", "t"),
    "calls",  # last: an adaptive solver chooses them itself
)
"""Fields that may tell the rows of a list apart; the first ones that do are their names."""


@dataclass(frozen=True)
class Row:
    """One figure, then and now."""

    figure: str
    then: object
    now: object
    verdict: str


def newest(what, folder=RESULTS):
    """The newest dated file of a result, and the hardware in its name."""
    found = []
    for path in folder.glob(f"{what}_*.json"):
        name, hardware, date = path.stem.rsplit("_", 2)
        if name == what:
            found.append((date, hardware, path))
    if not found:
        raise SystemExit(f"no result {what} in {folder}; see --list")
    date, hardware, path = max(found)
    return path, hardware


def flatten(value, path=""):
    """Fields of a result by path; rows of a list are named by what tells them apart."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(zip(row_names(value), value, strict=True))
    else:
        return {path: value}
    flat = {}
    for key, entry in pairs:
        flat |= flatten(entry, f"{path}/{key}" if path else str(key))
    return flat


def row_names(rows):
    """Names of the rows of a list: their numbers, where no fields tell them apart."""
    if not all(isinstance(row, dict) for row in rows):
        return [str(i) for i in range(len(rows))]
    chosen = []
    for key in NAMES:
        values = [row.get(key) for row in rows]
        if None not in values and (len(set(values)) > 1 or (not chosen and len(rows) == 1)):
            chosen.append(key)
        names = [", ".join(shown(row[key]) for key in chosen) for row in rows]
        if chosen and len(set(names)) == len(names):
            return names
    return [str(i) for i in range(len(rows))]


def shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("/", ":")


def rule_for(figure, rules):
    """The first rule whose path fits, None if the figure does not count."""
    return next((rule for rule in rules if fnmatch.fnmatchcase(figure, rule["path"])), None)


def compare(then, now, rules, *, no_times=""):
    """Hold the figures of two results against each other.

    Returns a row for each figure that a rule speaks of: "same", "moved" or "cannot compare", with
    the reason. A figure that is gone moved; a new one cannot be compared, nor can times if
    ``no_times`` says why not.
    """
    old, new = flatten(then), flatten(now)
    rows = []
    for figure in dict.fromkeys([*old, *new]):
        rule = rule_for(figure, rules)
        if rule is None:
            continue
        if figure not in new:
            verdict = "moved: it is gone"
        elif figure not in old:
            verdict = "cannot compare: it is new"
        else:
            verdict = judge(figure, old, new, rule, no_times)
        rows.append(Row(figure, old.get(figure), new.get(figure), verdict))
    return rows


def judge(figure, old, new, rule, no_times):
    """Whether one figure moved, by its rule."""
    a, b = old[figure], new[figure]
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    if "exact" in rule:
        return "same" if a == b else "moved"
    if not numbers:
        return "same" if a == b else "moved: no number"
    if not (math.isfinite(a) and math.isfinite(b)):
        return "moved: not finite"
    if "time" in rule:
        if no_times:
            return f"cannot compare: {no_times}"
        if a <= 0 or b <= 0:
            return "cannot compare: not positive"
        factor = max(a / b, b / a)
        return "same" if factor <= rule["time"] else f"moved: by a factor of {factor:.2f}"
    if "fixed" in rule:
        gap = abs(b - a)
        if gap <= rule["fixed"] * abs(a):
            return "same"
        return f"moved: by {gap / abs(a):.1%}" if a else "moved: from 0"
    errors = [error_of(figure, side, rule) for side in (old, new)]
    if None in errors:
        return "cannot compare: no error"
    reach, gap = math.hypot(*errors), abs(b - a)
    if gap <= STANDARD_ERRORS * reach:
        return "same"
    return f"moved: by {gap / reach:.1f} standard errors" if reach else "moved"


def error_of(figure, side, rule):
    """Standard error of an estimate: that beside it, or the rule's own; None if there is none."""
    stated = rule["estimate"]
    if not isinstance(stated, str):
        return float(stated)
    parent = figure.rpartition("/")[0]
    found = side.get(f"{parent}/{stated}" if parent else stated)
    return None if found is None else found * rule.get("times", 1)


def cpu_name():
    """Name of the processor, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def is_hardware(tag, cpu):
    """Whether a processor is the one in a file's name, such as ``epyc-1-thread``."""
    return tag.split("-")[0].lower() in re.findall(r"[a-z0-9]+", cpu.lower())


class Clock:
    """Whether times can be compared with those of a file."""

    def __init__(self):
        self.own = 0
        self.before = os.getloadavg()[0]

    def start(self):
        """Note what the machine does besides; our last command is still in its average."""
        self.before = os.getloadavg()[0] - self.own

    def why_not(self, hardware, threads):
        """Why not: other hardware, or another program at work; empty if they can."""
        if not is_hardware(hardware, cpu_name()):
            return "other hardware"
        self.own = threads
        return busy(max(self.before, os.getloadavg()[0] - threads), threads, os.cpu_count() or 1)


def busy(others, threads, cores):
    """Words on a machine on which ``threads`` do not have processors of their own, or none."""
    if others + threads <= cores + 0.5:
        return ""
    return f"busy, {others:.1f} other processes on {cores} processors"


def unknown_words(entry, known):
    """Words in braces that nobody has given a value, in the order of the commands."""
    each = entry.get("each", {})
    words = WORD.findall(" ".join(as_list(entry["command"])))
    return [word for word in dict.fromkeys(words) if word not in known and word not in each]


def as_list(commands):
    return [commands] if isinstance(commands, str) else commands


def fill(command, words):
    """Arguments of a command, and whether its output is the result (``> {out}``)."""
    arguments = shlex.split(command)
    is_piped = arguments[-2:] == [">", "{out}"]
    arguments = arguments[:-2] if is_piped else arguments
    programs = {"trilemma": [sys.executable, "-m", "trilemma"], "python": [sys.executable]}
    head = programs.get(arguments[0], arguments[:1])
    rest = [WORD.sub(lambda found: str(words[found[1]]), part) for part in arguments[1:]]
    return [*head, *rest], is_piped


def run_once(entry, words, out):
    """Run the commands of an entry and read the result."""
    environment = os.environ | {"OMP_NUM_THREADS": str(entry.get("threads", 1))}
    for command in as_list(entry["command"]):
        arguments, is_piped = fill(command, words | {"out": out})
        done = subprocess.run(
            arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            if done.returncode < 0:
                raise RuntimeError(f"ended by {signal.Signals(-done.returncode).name}")
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise RuntimeError(lines[-1] if lines else f"status {done.returncode}")
        if is_piped:
            out.write_text(done.stdout)
    return json.loads(out.read_text())


def run(entry, words):
    """Make a result again: the parsed JSON."""
    each = entry.get("each")
    with tempfile.TemporaryDirectory() as folder:
        if not each:
            words = words | {"scratch": folder}
            return run_once(entry, words, Path(folder) / "out.json")
        rows, names = [], entry.get("names", {})
        for i, values in enumerate(itertools.product(*each.values())):
            scratch = Path(folder) / str(i)
            scratch.mkdir()
            chosen = dict(zip(each, values, strict=True))
            found = run_once(entry, words | chosen | {"scratch": scratch}, scratch / "out.json")
            rows.append({names.get(k, k): v for k, v in chosen.items()} | {entry["as"]: found})
        return {"rows": rows}


def write(result, what, hardware, folder=RESULTS, today=None):
    """Write a result as a new file, never over an old one."""
    today = today or datetime.date.today()
    for date in (today.strftime("%Y-%m"), today.isoformat()):
        path = folder / f"{what}_{hardware}_{date}.json"
        if not path.exists():
            path.write_text(json.dumps(result, indent=1) + "\n")
            return path
    raise SystemExit(f"{path} exists; results are not edited, so name other hardware")


def table(what, rows, is_whole):
    """Lines of the table of one result."""
    printed = [row for row in rows if is_whole or row.verdict.startswith("moved")]
    lines = [
        f"{what:24} {row.figure:48} {number(row.then):>12} {number(row.now):>12}  {row.verdict}"
        for row in printed
    ]
    counts = dict.fromkeys(("same", "moved", "cannot compare"), 0)
    for row in rows:
        counts[row.verdict.split(":")[0]] += 1
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    why = sorted({row.verdict for row in rows if row.verdict.startswith("cannot compare")})
    reasons = [reason.partition(": ")[2] for reason in why]
    said += f" ({'; '.join(reasons)})" if reasons else ""
    return [*lines, f"{what:24} {said or 'no figures'}"]


def number(value):
    return f"{value:.5g}" if isinstance(value, float) else str(value)[:12]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="MNIST, as for training")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these results")
    parser.add_argument("--list", action="store_true", help="name the results, run nothing")
    parser.add_argument(
        "--quick", action="store_true", help=f"only what takes {QUICK_MINUTES} minutes or less"
    )
    parser.add_argument("--all", action="store_true", help="print figures that are the same, too")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=PATH", help="a model that is not ours"
    )
    parser.add_argument("--write", metavar="HARDWARE", help="write new dated files of this name")
    return parser.parse_args()


def main():
    args = parse()
    entries = yaml.safe_load((RESULTS / "commands.yaml").read_text())
    if unknown := sorted(set(args.only or ()) - set(entries)):
        raise SystemExit(f"no result {', '.join(unknown)}; there are {', '.join(entries)}")
    chosen = {
        what: entry
        for what, entry in sorted(entries.items(), key=lambda item: item[1]["minutes"])
        if what in (args.only or entries) and (not args.quick or entry["minutes"] <= QUICK_MINUTES)
    }
    if args.list:
        for what, entry in chosen.items():
            print(f"{what:34} {entry['minutes']:>3} min  {newest(what)[0].name}")
        return 0
    words = dict(pair.split("=", 1) for pair in args.model)
    if args.data:
        words["data"] = Path(args.data).resolve() if Path(args.data).exists() else args.data
    failed, clock = False, Clock()
    for what, entry in chosen.items():
        missing = unknown_words(entry, {*words, "out", "scratch"})
        if missing:
            options = ["--data PATH" if m == "data" else f"--model {m}=PATH" for m in missing]
            print(f"{what:24} cannot run: give {' '.join(options)}", flush=True)
            failed |= bool(args.only)
            continue
        path, hardware = newest(what)
        started = time.perf_counter()
        clock.start()
        try:
            result = run(entry, words)
        except (RuntimeError, OSError, json.JSONDecodeError) as error:
            print(f"{what:24} failed: {error}", flush=True)
            failed = True
            continue
        minutes = (time.perf_counter() - started) / 60
        then = json.loads(path.read_text())
        no_times = clock.why_not(hardware, entry.get("threads", 1))
        rows = compare(then, result, entry["figures"], no_times=no_times)
        lines = table(what, rows, args.all)
        lines[-1] += f", against {path.name}, {minutes:.1f} min"
        print("\n".join(lines), flush=True)
        failed |= any(row.verdict.startswith("moved") for row in rows)
        if args.write:
            print(f"{what:24} written: {write(result, what, args.write).name}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
