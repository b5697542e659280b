"""The training loop over steps and phases.

One loop trains every method. At each step it draws the global batch that the step's index stands
for, and for every phase of the method accumulates gradients over micro-batches and takes one
optimiser step; then the averages are updated. Devices, processes and precision are accelerate's.

Nothing random is stored: data order, noise and dropout are functions of the seed, the step and a
sample's place in the global batch. A run that is killed at any instant and resumed therefore
computes what the uninterrupted run computes, bit for bit on the same machine, and n processes
compute what one process with the same global batch computes, up to the order of sums.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trilemma.data import Batch, Batches, Data
from trilemma.errors import CheckpointError, ConfigError
from trilemma.images import save_png, to_uint8
from trilemma.methods.base import Method, channels_last
from trilemma.rng import BatchRng, mix_seed
from trilemma.sampling import sample_indices
from trilemma.training import checkpoint
from trilemma.training import trackers as tracking
from trilemma.training.compiling import compile_network, uncover
from trilemma.training.ema import EMA
from trilemma.training.optim import Adam
from trilemma.training.run import Run, averaged

__all__ = ["Progress", "Trainer"]

Precision = Literal["fp32", "bf16", "fp16"]
HARMLESS = (
    "`broadcast_buffers` is deprecated",  # its successor is not in every PyTorch that we allow
    "Grad strides do not match bucket view",  # of 1 x 1 weights, whose strides say nothing
)
"""Beginnings of warnings of several processes that a user can do nothing about."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for words in HARMLESS:
            warnings.filterwarnings("ignore", words)
        yield


@dataclass(frozen=True)
class Progress:
    """What a progress line shows: position, rate, losses averaged since the last one."""

    step: int
    images: int
    total_images: int
    images_per_second: float
    seconds_left: float
    values: dict[str, float]


class Trainer:
    """Train a method: batch size, length, precision, averaging, logging and checkpoints.

    Args:
        optimizers: by phase, or by network where a phase trains several;
            see ``Method.optimizer_networks``.
        num_images: training length in images.
        batch_size: global batch, over all processes and accumulation steps.
        accumulate: micro-batches per optimiser step and process.
        seed: seed of data order, noise and dropout.
        ema_decay: decay of the averages, per step.
        ema_warmup: cap the decay by (1 + n) / (10 + n) after n steps.
        precision: "fp32", "bf16" or "fp16" for the networks; losses, weights and averages stay
            float32. "fp16" needs a GPU.
        compile: compile the networks with ``torch.compile``. Averages are not compiled, nor are
            calls whose gradient with respect to data is asked for, such as that of a penalty R1.
        log_every: steps between two log lines.
        save_images: images between two checkpoints.
        keep: checkpoints to keep.
        sample_images: images between two sample grids; 0 for none.
        num_samples: samples per grid.
        num_workers: processes that decode images which do not fit in memory.
        trackers: where the losses go besides ``log.jsonl``, such as "tensorboard", "wandb",
            "mlflow"; see ``trilemma.training.trackers``. TensorBoard by default.

    Raises:
        ConfigError: for values outside their range.
    """

    def __init__(
        self,
        optimizers: dict[str, Adam],
        num_images: int,
        *,
        batch_size: int = 64,
        accumulate: int = 1,
        seed: int = 0,
        ema_decay: float = 0.9999,
        ema_warmup: bool = False,
        precision: Precision = "fp32",
        compile: bool = False,
        log_every: int = 50,
        save_images: int = 500_000,
        keep: int = 2,
        sample_images: int = 500_000,
        num_samples: int = 64,
        num_workers: int = 4,
        trackers: list[str] | None = None,
    ) -> None:
        positive = {"num_images": num_images, "batch_size": batch_size, "accumulate": accumulate}
        positive |= {"log_every": log_every, "save_images": save_images, "keep": keep}
        positive["num_samples"] = num_samples
        for name, value in positive.items():
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        if sample_images < 0:
            raise ConfigError(f"sample_images={sample_images} must be at least 0; 0 draws no grids")
        if not 0 <= ema_decay < 1:
            raise ConfigError(f"ema_decay={ema_decay} must lie in [0, 1)")
        self.optimizers, self.num_images, self.batch_size = optimizers, num_images, batch_size
        self.accumulate, self.seed, self.precision, self.compile = (
            accumulate,
            seed,
            precision,
            compile,
        )
        self.ema_decay, self.ema_warmup = ema_decay, ema_warmup
        self.log_every, self.save_images, self.keep = log_every, save_images, keep
        self.sample_images, self.num_samples = sample_images, num_samples
        self.num_workers = num_workers
        self.trackers = tracking.check_names(["tensorboard"] if trackers is None else trackers)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run, rounded up."""
        return -(-self.num_images // self.batch_size)

    @staticmethod
    def check_folder(out: Path, *, resume: bool) -> None:
        """Refuse a folder that holds a run, unless it is to be resumed.

        Raises:
            CheckpointError: if there are checkpoints and ``resume`` is not set.
        """
        if not resume and checkpoint.checkpoints(out):
            raise CheckpointError(
                f"{out} already holds a training run: add --resume to continue it, or choose "
                "another --out"
            )

    @_quiet()
    def fit(
        self,
        method: Method,
        data: Data,
        out: Path | str,
        *,
        config: Mapping[str, Any] | None = None,
        resume: bool = False,
        export: Callable[[Path, Method], None] | None = None,
        report: Callable[[Progress], None] | None = None,
        started: Callable[[], None] | None = None,
    ) -> bool:
        """Train, writing checkpoints, logs and sample grids to a folder.

        Args:
            method: the method; its networks are trained in place.
            data: training data.
            out: folder of the run.
            config: resolved recipe, stored with every checkpoint.
            resume: continue from the newest whole checkpoint in ``out``, if there is one.
            export: writes the file to sample from, given a path and the averaged method.
            report: receives a ``Progress`` every ``log_every`` steps, on the main process.
            started: called once the networks are ready, restored if the run is resumed.

        Returns:
            True if training ran to its end, False if a signal stopped it after a save.

        Raises:
            ConfigError: for a tracker, precision or compiler that this machine does not have.
            CheckpointError: if ``out`` already holds a run and ``resume`` is not set, or one of
                other networks, another batch size or another seed.
            NumericalError: if a loss or a weight is not finite; the last good checkpoint stays.
        """
        run = self._start(method, data, Path(out), config or {}, resume)
        if started is not None:
            started()
        resumed = run.step * self.batch_size if run.step else None
        try:
            if self.trackers:
                tracking.start(run.accelerator, self.trackers, run.out, run.config, images=resumed)
            with _signals(run), contextlib.closing(_EndTrackers(run.accelerator)):
                self._loop(run, export, report)
        finally:
            for name, network in run.raw.items():
                uncover(network)
                method.set_submodule(name, network)
        return not run.stopping or run.step >= self.num_steps

    def _start(
        self, method: Method, data: Data, out: Path, config: Mapping[str, Any], resume: bool
    ) -> Run:
        accelerator = self._accelerator(out)
        stepped = method.optimizer_networks()
        if set(stepped) != set(self.optimizers):
            raise ConfigError(
                f"{type(method).__name__} needs optimizers for {list(stepped)}; "
                f"the trainer got {list(self.optimizers)}"
            )
        self.check_folder(out, resume=resume)
        newest = checkpoint.checkpoints(out)[-1:] if resume else []
        method.to(accelerator.device).train()
        channels_last(method)
        trained = {name for phase in method.phases.values() for name in phase}
        names = sorted(trained | set(method.kept))
        raw = {name: method.get_submodule(name) for name in names}
        emas = {
            name: EMA(raw[name], self.ema_decay, warmup=self.ema_warmup) for name in method.averaged
        }
        optimizers = {
            key: self.optimizers[key].build([p for n in networks for p in raw[n].parameters()])
            for key, networks in stepped.items()
        }
        loader = Batches(
            data,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulate=self.accumulate,
            num_workers=self.num_workers,
            pin_memory=accelerator.device.type == "cuda",
        )
        run = Run(
            accelerator=accelerator,
            method=method,
            data=data,
            loader=loader,
            out=out,
            config=config,
            batch_size=self.batch_size,
            seed=self.seed,
            raw=raw,
            optimizers=optimizers,
            emas=emas,
        )
        if newest:
            checkpoint.restore(run, newest[0])
        else:
            self._begin(run)
        for name in sorted(trained):
            if self.compile:
                compile_network(raw[name])
            method.set_submodule(name, accelerator.prepare_model(raw[name]))
        run.optimizers = {k: accelerator.prepare_optimizer(v) for k, v in optimizers.items()}
        return run

    def _accelerator(self, out: Path) -> Any:
        try:
            from accelerate import Accelerator, PartialState
            from accelerate.utils import DistributedDataParallelKwargs
        except ImportError as error:
            raise ConfigError("training needs accelerate: pip install 'trilemma[train]'") from error
        tracking.check_packages(self.trackers)
        # Without being told, accelerate overlooks the other processes where there is no GPU.
        is_cpu = not torch.accelerator.is_available()
        if self.precision == "fp16" and PartialState(cpu=is_cpu).device.type == "cpu":
            raise ConfigError("precision fp16 needs a GPU and this is a CPU: take bf16 or fp32")
        try:
            accelerator = Accelerator(
                cpu=is_cpu,
                mixed_precision="no" if self.precision == "fp32" else self.precision,
                log_with=self.trackers or None,
                project_dir=str(out),
                kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
            )
        except ValueError as error:  # a device without it, or another precision in this process
            raise ConfigError(
                f"precision {self.precision} cannot be had here, accelerate says: {error}"
            ) from error
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if accelerator.num_processes != launched:
            raise ConfigError(
                f"WORLD_SIZE={launched} processes were launched, but accelerate found "
                f"{accelerator.num_processes}: all would train alone into one folder; launch with "
                "torchrun or accelerate launch, and unset WORLD_SIZE for a single process"
            )
        shards = accelerator.num_processes * self.accumulate
        if self.batch_size % shards:
            raise ConfigError(
                f"batch_size={self.batch_size} does not divide into {accelerator.num_processes} "
                f"processes times accumulate={self.accumulate}"
            )
        return accelerator

    def _loop(
        self,
        run: Run,
        export: Callable[[Path, Method], None] | None,
        report: Callable[[Progress], None] | None,
    ) -> None:
        run.out.mkdir(parents=True, exist_ok=True)
        started, first = time.monotonic(), run.step
        while run.step < self.num_steps and not run.stopping:
            self._train_step(run, next(run.loader))
            run.step += 1
            is_last = run.step == self.num_steps
            if run.step % self.log_every == 0 or is_last or run.accelerator.device.type == "cpu":
                checkpoint.raise_if_bad(run)
            if run.step % self.log_every == 0 or is_last:
                self._log(run, started, first, report)
            if run.step % self.log_every == 0 or is_last or run.accelerator.num_processes == 1:
                self._agree_to_stop(run)
            if is_last or run.stopping or self._is_due(run.step, self.save_images):
                checkpoint.save(run, self.keep, export)
            if self.sample_images and (is_last or self._is_due(run.step, self.sample_images)):
                self._draw(run)

    def _is_due(self, step: int, every_images: int) -> bool:
        """Whether a multiple of ``every_images`` was passed by the step just taken."""
        seen = step * self.batch_size
        return seen // every_images > (seen - self.batch_size) // every_images

    def _train_step(self, run: Run, micro_batches: list[Batch]) -> None:
        accelerator, shards = run.accelerator, run.accelerator.num_processes * self.accumulate
        torch.manual_seed(mix_seed(self.seed, "layers", run.step, accelerator.process_index))
        inputs = [
            self._augment(run, batch, micro, shards) for micro, batch in enumerate(micro_batches)
        ]
        for phase, trained in run.method.phases.items():
            run.method.train_only(phase)
            for micro, (x0, label) in enumerate(inputs):
                rng = self._rng(run, phase, micro, shards, len(x0))
                is_last = micro == len(inputs) - 1
                with contextlib.ExitStack() as stack:
                    for name, ema in run.emas.items():
                        if phase in run.method.averaged_in and name not in trained:
                            stack.enter_context(ema.lend(run.raw[name]))
                    if not is_last:
                        for network in run.method.phase_networks(phase):
                            stack.enter_context(accelerator.no_sync(network))
                    loss = run.method.loss(x0, label, phase, rng, run.step)
                    accelerator.backward(loss.total / len(inputs))
                self._count(run, phase, loss.total.detach(), loss.parts)
            self._descend(run, phase)
        for name, ema in run.emas.items():
            ema.update(run.raw[name])

    def _descend(self, run: Run, phase: str) -> None:
        """One step of every optimiser of a phase.

        The scale of fp16 losses changes after the last of them: gradients of a phase share it.
        """
        scaler = run.accelerator.scaler
        for key, networks in run.method.optimizer_networks().items():
            if not set(networks) <= set(run.method.phases[phase]):
                continue
            optimizer, recipe = run.optimizers[key], self.optimizers[key]
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(run.step * self.batch_size)
            if scaler is not None:
                scaler.unscale_(optimizer.optimizer)
            if recipe.clip_norm:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer.optimizer)  # leaves the step out where gradients overflow
            optimizer.zero_grad(set_to_none=True)
        if scaler is not None:
            scaler.update()

    def _begin(self, run: Run) -> None:
        """Let the method look at data, in the data's own order, once."""

        def batches() -> Iterator[Tensor]:
            for start in range(0, len(run.data), self.batch_size):
                rows = range(start, min(start + self.batch_size, len(run.data)))
                yield run.data.fetch(rows).x0.to(run.accelerator.device)

        run.method.eval()
        with torch.no_grad():
            run.method.begin(batches())
        run.method.train()
        for name, ema in run.emas.items():
            ema.network.load_state_dict(run.raw[name].state_dict())

    def _rng(self, run: Run, purpose: str, micro: int, shards: int, rows: int) -> BatchRng:
        return BatchRng(
            mix_seed(self.seed, purpose, run.step),
            rows,
            shard=micro * run.accelerator.num_processes + run.accelerator.process_index,
            num_shards=shards,
            device=run.accelerator.device,
        )

    def _augment(
        self, run: Run, batch: Batch, micro: int, shards: int
    ) -> tuple[Tensor, Tensor | None]:
        device = run.accelerator.device
        x0 = batch.x0.to(device, non_blocking=True)
        if run.data.flip:
            mirror = self._rng(run, "flip", micro, shards, len(x0)).integers(2).bool()
            x0 = torch.where(mirror[:, None, None, None], x0.flip(-1), x0)
        label = None if batch.label is None else batch.label.to(device, non_blocking=True)
        return x0, label

    def _count(self, run: Run, phase: str, total: Tensor, parts: dict[str, Tensor]) -> None:
        """Add to running sums and note the first step with a bad loss, without a device sync."""
        for name, value in parts.items():
            key = f"{phase}/{name}"
            run.sums[key] = run.sums.get(key, torch.zeros_like(value)) + value
            run.sums[f"{key}#"] = run.sums.get(f"{key}#", torch.zeros_like(value)) + 1
        step = torch.full_like(total, run.step, dtype=torch.int64)
        never = torch.full_like(step, -1)
        previous = never if run.first_bad is None else run.first_bad
        is_new = (previous < 0) & ~torch.isfinite(total)
        run.first_bad = torch.where(is_new, step, previous)

    def _log(
        self, run: Run, started: float, first: int, report: Callable[[Progress], None] | None
    ) -> None:
        names = sorted(name for name in run.sums if not name.endswith("#"))
        values: dict[str, float] = {}
        for name in names:
            pair = torch.stack([run.sums[name], run.sums[f"{name}#"]])
            total, count = run.accelerator.reduce(pair, "sum").tolist()
            values[name] = total / count
        run.sums.clear()
        speed = (run.step - first) * self.batch_size / max(time.monotonic() - started, 1e-9)
        left = (self.num_steps - run.step) * self.batch_size / speed
        images = run.step * self.batch_size
        if not run.accelerator.is_main_process:
            return
        line = {"step": run.step, "images": images, "images_per_second": round(speed, 2), **values}
        with (run.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.trackers:
            run.accelerator.log({**values, "images_per_second": speed}, step=images)
        if report is not None:
            report(Progress(run.step, images, self.num_images, speed, left, values))

    @staticmethod
    def _agree_to_stop(run: Run) -> None:
        """Stop all processes when one of them got a signal."""
        run.stopping = run.asked
        if run.accelerator.num_processes > 1:
            flag = torch.tensor([float(run.asked)], device=run.accelerator.device)
            run.stopping = bool(run.accelerator.reduce(flag, "sum").item())

    def _draw(self, run: Run) -> None:
        """Write a grid of samples of the averaged networks, the same noise every time."""
        if run.accelerator.is_main_process and len(run.data.event_shape) == 3:
            with averaged(run):
                drawn = sample_indices(run.method, range(self.num_samples), seed=self.seed)
                images = torch.cat([to_uint8(batch.data) for batch in drawn])
            name = f"{run.step * self.batch_size:012d}.png"
            save_png(run.out / "samples" / name, images)
        run.accelerator.wait_for_everyone()


class _EndTrackers:
    """Closes the trackers at the end, also after an error."""

    def __init__(self, accelerator: Any) -> None:
        self.close = accelerator.end_training


@contextlib.contextmanager
def _signals(run: Run) -> Iterator[None]:
    """SIGTERM and SIGINT ask the loop to save and stop; the second one stops at once."""
    previous: dict[int, Any] = {}

    def stop(signum: int, frame: Any) -> None:
        if run.asked:
            before = previous.get(signum)
            is_deaf = before is None or before is signal.SIG_IGN  # as jobs of a shell may be
            signal.signal(signum, signal.SIG_DFL if is_deaf else before)
            signal.raise_signal(signum)
        run.asked = True

    with contextlib.suppress(ValueError):  # not the main thread, where there are no signals
        previous |= {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
