"""Checkpoints of a run: whole or absent, and all that the next step depends on.

Weights, averages, moments of the optimisers, the scale of fp16 losses, the place in the data. Noise
and order are not stored: they follow from the seed and the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trilemma.checkpoints import store
from trilemma.errors import CheckpointError, NumericalError
from trilemma.methods.base import Method
from trilemma.training.run import Run, averaged, named

__all__ = ["checkpoints", "raise_if_bad", "restore", "save"]


def save(run: Run, keep: int, export: Callable[[Path, Method], None] | None) -> None:
    """Write a checkpoint, on the main process; all processes must call this.

    Args:
        run: the live run.
        keep: checkpoints to keep, the newest ones.
        export: also writes the file to sample from, given its path and the averaged method.

    Raises:
        NumericalError: if a loss or a weight is not finite; nothing is written.
        WriteError: if the file cannot be written; earlier ones stay.
    """
    raise_if_bad(run)
    _raise_if_broken(run)
    position = _position(run)
    if run.accelerator.is_main_process:
        tensors = {f"method.{k}": v for k, v in named(run.raw)}
        for name, ema in run.emas.items():
            tensors |= {f"ema.{name}.{k}": v for k, v in ema.network.state_dict().items()}
        for key, optimizer in run.optimizers.items():
            for i, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{key}.{i}.{k}": v for k, v in state.items()}
        scaler = run.accelerator.scaler
        header = {
            "step": run.step,
            "batch_size": run.batch_size,
            "seed": run.seed,
            "config": dict(run.config),
            "ema_updates": {name: ema.num_updates for name, ema in run.emas.items()},
            "scaler": scaler.state_dict() if scaler is not None else {},
            "loader": position,
        }
        store.write(_checkpoint_path(run.out, run.step), "training", tensors, header)
        for old in checkpoints(run.out)[:-keep]:
            old.unlink()
        if export is not None:
            with averaged(run):
                export(run.out / "model.safetensors", run.method)
    run.accelerator.wait_for_everyone()


def restore(run: Run, path: Path) -> None:
    """Bring a run to where a checkpoint was written, in every process.

    Args:
        run: the run, with networks and optimisers as at its beginning.
        path: one of ``checkpoints``.

    Raises:
        CheckpointError: if the file is damaged, or of other networks, batch size or seed, or of
            another number of processes that read a stream.
    """
    stored = store.read(path, "training")
    for name, now in (("batch_size", run.batch_size), ("seed", run.seed)):
        before = stored.header.get(name, now)
        if before != now:
            raise CheckpointError(
                f"{run.out} was trained with {name} {before}, which decides where its data "
                f"and noise stand; asked for {now}: resume with {before}, or start another run"
            )
    try:
        for name, network in run.raw.items():
            network.load_state_dict(_below(stored.tensors, f"method.{name}."))
        for name, ema in run.emas.items():
            ema.network.load_state_dict(_below(stored.tensors, f"ema.{name}."))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} holds other networks than the recipe describes: resume with the settings "
            f"in {run.out / 'config.yaml'}"
        ) from error
    for name, ema in run.emas.items():
        ema.num_updates = stored.header["ema_updates"][name]
    for key, optimizer in run.optimizers.items():
        _restore_optimizer(optimizer, _below(stored.tensors, f"optimizer.{key}."))
    if run.accelerator.scaler is not None and stored.header["scaler"]:
        run.accelerator.scaler.load_state_dict(stored.header["scaler"])
    run.loader.load_state_dict(_own_position(run, stored.header["loader"]))
    run.step = stored.header["step"]


def _checkpoint_path(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step-{step:09d}.safetensors"


def checkpoints(out: Path) -> list[Path]:
    """Whole checkpoints, oldest first; files being written have other names."""
    return sorted((out / "checkpoints").glob("step-*.safetensors"))


def raise_if_bad(run: Run) -> None:
    """Stop if a loss was not finite, with a NumericalError that names the step and what is kept."""
    if run.first_bad is not None and int(run.first_bad) >= 0:
        raise NumericalError(f"the loss is not finite at step {int(run.first_bad)}; {_way_on(run)}")


def _raise_if_broken(run: Run) -> None:
    """Keep weights that are no numbers out of checkpoints; a finite loss may have broken them."""
    tensors = [*named(run.raw)]
    tensors += [*named({f"ema.{name}": ema.network for name, ema in run.emas.items()})]
    for name, value in tensors:
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise NumericalError(f"{name} is not finite after step {run.step}; {_way_on(run)}")


def _way_on(run: Run) -> str:
    """What to do after numbers were lost."""
    change = "lower the learning rate or take precision fp32 or bf16"
    if not checkpoints(run.out):
        return f"there is no checkpoint yet: {change}"
    return f"the last checkpoint in {run.out / 'checkpoints'} is good: {change}, and --resume"


def _position(run: Run) -> Any:
    """Where the data stand; of a stream every process has a place of its own."""
    position = run.loader.state_dict()
    if not run.data.streaming:
        return position
    from accelerate.utils import gather_object

    return gather_object([position])


def _own_position(run: Run, stored: Any) -> dict[str, Any]:
    """The part of a stored position that is this process's."""
    if not isinstance(stored, list):
        return dict(stored)
    processes = run.accelerator.num_processes
    if len(stored) != processes:
        raise CheckpointError(
            f"{run.out} streamed its data to {len(stored)} processes, each from its own place, and "
            f"here are {processes}: resume with {len(stored)}, or start another run"
        )
    return dict(stored[run.accelerator.process_index])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load moments, in the memory layout of their parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if value.shape == parameter.shape and value.dim() > 1:
                moments[key] = torch.empty_like(parameter).copy_(value)
