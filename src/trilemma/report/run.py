"""Run a report: models over their ladders, in several processes, taking up what was done before.

Every cell is one file below ``cells/``, written when it is whole and valid for one protocol: the
model's bytes, the rung, the data's bytes, the number of samples, the seed and the features. A
report that was killed finds these files again, and the shards of samples that the cells in work had
drawn. A file holds its own digest, and that of the pictures beside it: what was damaged or changed
since is measured again. A cell that fails says why in its row, and the others go on; it is tried
again the next time.

The processes that measure cells end with the one that started them, even where that is killed.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any

import torch

from trilemma.checkpoints.store import write_bytes
from trilemma.data import Data, HubImages, StackedDigits, Toy
from trilemma.errors import (
    ConfigError,
    DataError,
    NumericalError,
    TrilemmaError,
    WriteError,
)
from trilemma.evaluation import read_npz
from trilemma.metrics import extractor_named
from trilemma.metrics.fitted import FittedFeatures
from trilemma.pipeline import load
from trilemma.report import markdown, page
from trilemma.report.entries import Entry, common_data, open_models
from trilemma.report.ladder import Rung, rungs_for
from trilemma.report.measure import (
    Protocol,
    draw,
    forget,
    judge,
    measure_likelihood,
    time_sampling,
    unlike_digits,
)
from trilemma.report.record import Cell, Model, Report, plain, read_cell

__all__ = ["Progress", "run_report"]

FAILURES = (TrilemmaError, RuntimeError, MemoryError)
"""What ends one row and not the report; lack of memory on a GPU is a RuntimeError."""
SOME = 256
REVISION = 2
"""Of what a row measures within one version: another one measures all rows again."""
Progress = Callable[[str, int, int], None]
"""Called with what has just been done, how many of all tasks are done, and how many there are."""


@dataclass(frozen=True)
class Task:
    """A cell or a likelihood to measure, with all that another process needs for it."""

    model: Model
    cell: Cell
    rung: Rung
    protocol: Protocol
    folder: str
    digest: str
    card: Mapping[str, Any]
    """Of the model; of the first one for samples from a file."""
    likelihood_num: int = 0
    threads: int = 0
    """Of the processor; 0 to leave them as they are."""

    @property
    def path(self) -> Path:
        """File of the result."""
        return Path(self.folder) / "cells" / f"{self.cell.key}.json"

    @property
    def name(self) -> str:
        """What a progress line calls it."""
        return self.cell.key


def run_report(
    models: Sequence[str],
    protocol: Protocol,
    folder: Path | str,
    *,
    ladder: str | Sequence[Rung] = "standard",
    likelihood_num: int = 0,
    jobs: int = 1,
    patience: float = 10.0,
    command: str = "",
    progress: Progress = lambda text, done, total: None,
) -> Report:
    """Measure models side by side and write ``report.json``, ``report.md`` and ``report.html``.

    Args:
        models: bundled names, files, run folders, Hub ids, or ``*.npz`` of samples drawn elsewhere.
        protocol: data, number of samples, seed, features.
        folder: where the report goes; what a former run has left there is taken up.
        ladder: name of a ladder, or rungs for every model.
        likelihood_num: held-out data for the likelihood; 0 for none.
        jobs: processes that draw and judge at the same time; times are measured alone, afterwards.
        patience: seconds to spend on each figure of time.
        command: that makes the report again, for the reader.
        progress: told of every task.

    Returns:
        The report, as written.

    Raises:
        ConfigError: for arguments out of range, or data that do not fit.
        DataError: if the data cannot be read.
        CheckpointError: if none of the models can be read.
        WriteError: if the folder cannot be written, or the disk is full; what was measured stays.
    """
    for name, value, is_allowed, allowed in (
        ("num", protocol.num, protocol.num >= 24, "at least 24"),
        ("seed", protocol.seed, 0 <= protocol.seed < 2**32, "0 to 2**32 - 1"),
        ("jobs", jobs, jobs >= 1, "at least 1"),
        ("patience", patience, patience > 0, "above 0 seconds"),
        ("likelihood_num", likelihood_num, likelihood_num >= 0, "at least 0"),
    ):
        if not is_allowed:
            raise ConfigError(f"{name}={value} must be {allowed}")
    folder = Path(folder)
    _check_folder(folder)
    forget()
    progress("reading models and data", 0, 0)
    entries = open_models(models, protocol.device)
    event_shape, data = common_data(entries, protocol)
    tasks = _tasks(entries, event_shape, data, protocol, folder, ladder, likelihood_num, jobs)
    done = _run_all(tasks, jobs, progress)
    drawn = {entry.model.name for entry in entries if entry.pipeline is not None}
    timed = [task for task in tasks if task.likelihood_num == 0 and task.model.name in drawn]
    for i, task in enumerate(timed):
        progress(f"timing {task.name}", len(tasks) + i, len(tasks) + len(timed))
        done[task.name] = _timed(task, done[task.name], entries, patience)
    report = _assembled(entries, tasks, done, data, protocol, ladder, likelihood_num, command)
    for name, text in (
        ("report.json", report.to_json()),
        ("report.md", markdown.render(report)),
        ("report.html", page.render(report, folder)),
    ):
        write_bytes(folder / name, text.encode())
    progress("written", len(tasks) + len(timed), len(tasks) + len(timed))
    return report


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written before anything is drawn."""
    try:
        (folder / "cells").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from error


def _tasks(
    entries: list[Entry],
    event_shape: tuple[int, ...],
    data: Data,
    protocol: Protocol,
    folder: Path,
    ladder: str | Sequence[Rung],
    likelihood_num: int,
    jobs: int,
) -> list[Task]:
    """All cells and likelihoods, in the order of the report."""
    card = next(e.model.card for e in entries if not e.model.error)
    facts = _facts(data, card, protocol)
    threads = max(1, torch.get_num_threads() // jobs)
    tasks = []
    for model, pipeline, samples in ((e.model, e.pipeline, e.samples) for e in entries):
        if model.error:
            continue
        if pipeline is None:
            assert samples is not None
            rungs, grid = {Rung("file"): True}, ""
        else:
            rungs = rungs_for(pipeline.method, ladder)
            grid = pipeline.method.default_grid
        extra = [(Rung("likelihood"), False)] if likelihood_num and pipeline is not None else []
        for rung, is_default in [*rungs.items(), *extra]:
            cell = Cell(
                key=f"{model.name}/{rung.name}",
                model=model.name,
                sampler=rung.sampler or "",
                steps=rung.steps,
                grid=grid,
                is_default=is_default,
            )
            num = likelihood_num if rung.sampler == "likelihood" else 0
            known = [model.sha256, asdict(rung), facts, asdict(protocol), num]
            digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
            own = card if pipeline is None else model.card
            tasks.append(Task(model, cell, rung, protocol, str(folder), digest, own, num, threads))
    return tasks


def _facts(data: Data, card: Mapping[str, Any], protocol: Protocol) -> dict[str, Any]:
    """What decides the real side of all figures, beside the protocol."""
    facts: dict[str, Any] = {"version": metadata.version("trilemma"), "revision": REVISION}
    shape = tuple(data.event_shape)
    if len(shape) != 3:
        return facts
    facts["real"] = _fingerprint(data, 2 * protocol.num, protocol.seed)  # with the floor's
    for split in ("train", "test"):  # of likelihoods and the check for copies
        try:
            part = protocol.real(shape, card, split)
            facts[split] = _fingerprint(part, SOME, protocol.seed)
        except (ConfigError, DataError):
            facts[split] = None
    if protocol.extractor or not isinstance(data, StackedDigits):
        network = protocol.features(data.images_uint8([0]))
        facts["features"] = [network.name, network.weights_sha256, network.preprocessing]
    return facts


def _fingerprint(data: Data, most: int, seed: int) -> list[Any]:
    """Number of images, and a digest of some of them."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:most]
    return [len(data), hashlib.sha256(data.images_uint8(order).numpy().tobytes()).hexdigest()]


def _run_all(tasks: list[Task], jobs: int, progress: Progress) -> dict[str, Any]:
    """Results by the names of the tasks; the longest are begun first."""
    found: dict[str, Any] = {}
    waiting = []
    for task in tasks:
        result = _former(task)
        if result is None:
            waiting.append(task)
        else:
            found[task.name] = result
            progress(f"{task.name} was there already", len(found), len(tasks))
    waiting.sort(key=_cost, reverse=True)
    if jobs == 1 or len(waiting) < 2:
        for task in waiting:
            progress(task.name, len(found), len(tasks))
            found[task.name] = execute(replace(task, threads=0))
        return found
    pool = ProcessPoolExecutor(
        min(jobs, len(waiting)), mp_context=get_context("spawn"), initializer=_depend_on_parent
    )
    try:
        running = {pool.submit(execute, task): task for task in waiting}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                found[task.name] = future.result()
                progress(task.name, len(found), len(tasks))
    except BrokenProcessPool as error:
        raise NumericalError(
            f"a process of the report died near {task.name}, perhaps for lack of memory; what was "
            "measured is kept: run the same command again, with fewer --jobs or a smaller "
            "--batch-size"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if len(found) < len(tasks):  # interrupted: shards and whole rows are on disk
            for process in active_children():
                process.terminate()
    return found


def _depend_on_parent() -> None:
    """Leave Ctrl-C to the process that can say what is kept, and end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for_any([parent.sentinel])
        os._exit(1)  # whole files are on disk, and nobody is left to be told

    threading.Thread(target=follow, daemon=True).start()


def _cost(task: Task) -> float:
    """Guess of the work: calls times networks' size; likelihoods are the longest."""
    calls = (task.likelihood_num and 1000) or (task.cell.steps or 200)
    return calls * task.model.num_parameters


def _in_words(error: BaseException) -> str:
    """A failure in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def execute(task: Task) -> Any:
    """Measure one task and keep its result; a mistake becomes the row's error."""
    if task.threads:
        torch.set_num_threads(task.threads)
    shards = task.path.with_name(f"{task.path.stem}.{task.digest[:12]}.shards")
    try:
        result = _measured(task, shards)
    except FAILURES as error:
        words = _in_words(error)
        return {"error": words} if task.likelihood_num else replace(task.cell, error=words)
    _keep(task, result)
    shutil.rmtree(shards, ignore_errors=True)
    return result


def _measured(task: Task, shards: Path) -> Any:
    """A likelihood, or a cell without times."""
    if task.model.family == "samples":
        samples, nfe = read_npz(task.model.where), 0
        if len(samples) < task.protocol.num:
            raise DataError(
                f"holds {len(samples)} samples, fewer than the {task.protocol.num} of this report"
            )
        samples = samples[: task.protocol.num]
    else:
        pipeline = load(task.model.where, device=task.protocol.device)
        if task.likelihood_num:
            return measure_likelihood(pipeline, task.protocol, task.likelihood_num)
        samples, nfe = draw(pipeline, task.rung, task.protocol, shards)
    cell = replace(task.cell, nfe=nfe)
    return judge(samples, task.protocol, cell, task.card, Path(task.folder))


def _keep(task: Task, result: Any) -> None:
    """Write a result with the digests of its protocol and of its pictures."""
    content: dict[str, Any] = {"digest": task.digest}
    if isinstance(result, Cell):
        content["pictures"] = _sha256((Path(task.folder) / result.pictures).read_bytes())
    fields = asdict(result) if isinstance(result, Cell) else result
    _write_sealed(task.path, content | {"result": plain(fields)})


def _former(task: Task) -> Any:
    """The result of an earlier run under the same protocol, if there is one, and whole."""
    try:
        content = _read_sealed(task.path)
        if content["digest"] != task.digest:
            return None
        result = content["result"]
        if task.likelihood_num:
            return result
        cell = read_cell(result)
        pictures = (Path(task.folder) / cell.pictures).read_bytes()
        if content["pictures"] != _sha256(pictures):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, damaged, or of another program: measured again
    return replace(cell, is_default=task.cell.is_default)


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _seal(content: Mapping[str, Any]) -> str:
    """Digest of figures, whatever their order and white space."""
    return _sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode())


def _write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures with their own digest."""
    sealed = {**content, "sha256": _seal(content)}
    write_bytes(path, json.dumps(sealed, indent=1, allow_nan=False).encode())


def _read_sealed(path: Path) -> dict[str, Any]:
    """Read figures that are as they were written.

    Raises:
        OSError, ValueError, TypeError, KeyError: if there are none such.
    """
    content = dict(json.loads(path.read_text()))
    if content.pop("sha256") != _seal(content):
        raise ValueError(f"{path} was changed")
    return content


def _timed(task: Task, cell: Cell, entries: list[Entry], patience: float) -> Cell:
    """The cell with its times, measured on this machine unless they were before."""
    pipeline = next(e.pipeline for e in entries if e.model.name == task.model.name)
    if cell.error or pipeline is None:
        return cell
    path, here = task.path.with_suffix(".time.json"), _hardware(task.protocol.device)
    try:
        former = _read_sealed(path)
        known = [former[name] for name in ("digest", "hardware")]
        if known == [task.digest, here] and former["patience"] >= patience:
            return read_cell({**asdict(cell), **former["figures"]})
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never timed, damaged, or of another program
    try:
        times = time_sampling(pipeline, task.rung, patience, min(64, task.protocol.batch_size))
    except FAILURES as error:
        return replace(cell, time_note=_in_words(error))
    cell = replace(cell, **times)
    figures = {name: asdict(cell)[name] for name in times}
    content = {"digest": task.digest, "hardware": here, "patience": patience, "figures": figures}
    _write_sealed(path, content)
    return cell


def _assembled(
    entries: list[Entry],
    tasks: list[Task],
    done: dict[str, Any],
    data: Data,
    protocol: Protocol,
    ladder: str | Sequence[Rung],
    likelihood_num: int,
    command: str,
) -> Report:
    """The report from its parts."""
    models = []
    for entry in entries:
        found = done.get(f"{entry.model.name}/likelihood", {"note": "not measured"})
        if "error" in found:
            found = {"note": found["error"]}
        models.append(replace(entry.model, likelihood=found))
    cells = [done[task.name] for task in tasks if not task.likelihood_num]
    order = {entry.model.name: i for i, entry in enumerate(entries)}
    cells.sort(key=lambda cell: (order[cell.model], cell.nfe, cell.key))
    kind = "points" if isinstance(data, Toy) else "images"
    return Report(
        models=tuple(models),
        cells=tuple(cells),
        data={
            "name": protocol.data,
            "kind": "stacked" if isinstance(data, StackedDigits) else kind,
            "split": protocol.split,
            "event_shape": list(data.event_shape),
            "class_names": _class_names(data, protocol),
            "hardly_seen": _hardly_seen(data, protocol),
            "unlike_digits": unlike_digits(data, protocol),
            "given_shape": _given_shape(data, protocol),
            "length": len(data),
        },
        settings={
            "num": protocol.num,
            "seed": protocol.seed,
            "extractor": protocol.extractor,
            "batch_size": protocol.batch_size,
            "likelihood_num": likelihood_num,
            "ladder": ladder if isinstance(ladder, str) else [rung.name for rung in ladder],
        },
        hardware=_hardware(protocol.device),
        date=datetime.date.today().isoformat(),
        version=metadata.version("trilemma"),
        command=command,
    )


def _class_names(data: Data, protocol: Protocol) -> list[str]:
    """Names of the classes that samples are sorted into, if they are."""
    if isinstance(data, Toy | StackedDigits) or unlike_digits(data, protocol) is not None:
        return []
    return list(protocol.features(data.images_uint8([0])).class_names)


def _hardly_seen(data: Data, protocol: Protocol) -> list[str]:
    """Flaws that the features hardly see, if they are fitted ones, whose file knows."""
    if isinstance(data, Toy) or protocol.extractor is None:
        return []
    network = extractor_named(protocol.extractor)
    return list(network.hardly_seen) if isinstance(network, FittedFeatures) else []


def _given_shape(data: Data, protocol: Protocol) -> list[int]:
    """Shape of the first real image as it was given, if it is compared in another one."""
    if not isinstance(data, HubImages):
        return []
    given = HubImages(protocol.data, split=protocol.split).event_shape
    channels, height, width = data.event_shape
    compared = channels, height - 2 * data.pad, width - 2 * data.pad
    return [] if given == compared else list(given)


def _hardware(device: str) -> dict[str, Any]:
    """Where times are measured."""
    name = platform.processor() or platform.machine()
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            name = (
                next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
            )
    return {
        "device": device,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
