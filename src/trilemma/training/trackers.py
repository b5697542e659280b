"""Trackers: programs that show the losses and settings of runs side by side.

A run writes its losses to ``log.jsonl`` whatever the trackers are. Trackers are accelerate's, each
with a package of its own. They get the same losses against the number of images, and the run's
settings under the names of the command line: ``method.num_steps``, ``trainer.batch_size``.

A run that is resumed goes on in the record that it began, where the tracker has such records: their
identifiers are kept in ``trackers.json`` in the run's folder. What was logged after the checkpoint
that a run is resumed from is computed again, and is the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trilemma.checkpoints import store
from trilemma.errors import ConfigError

__all__ = ["PACKAGES", "check_names", "check_packages", "settings", "start"]

PACKAGES = {
    "aim": "aim",
    "clearml": "clearml",
    "comet_ml": "comet-ml",
    "dvclive": "dvclive",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""Names of trackers, and the packages that bring them."""


def check_names(names: Sequence[str]) -> list[str]:
    """Return the names of trackers, each once.

    Raises:
        ConfigError: for an unknown name.
    """
    for name in names:
        if name not in PACKAGES:
            raise ConfigError(f"unknown tracker {name!r}; choose among {', '.join(PACKAGES)}")
    return list(dict.fromkeys(names))


def check_packages(names: Sequence[str]) -> None:
    """Refuse trackers whose package is missing; accelerate would leave them out in silence.

    Raises:
        ConfigError: naming the package to install.
    """
    from accelerate.tracking import get_available_trackers

    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in available:
            raise ConfigError(
                f"the tracker {name} is not installed: pip install {PACKAGES[name]}, or leave it "
                "out of --trainer.trackers"
            )


def start(
    accelerator: Any,
    names: Sequence[str],
    out: Path,
    config: Mapping[str, Any],
    *,
    images: int | None,
) -> None:
    """Open the trackers of a run and give them its settings.

    Args:
        accelerator: made with ``log_with`` of the same names.
        names: names of trackers, checked.
        out: folder of the run; its name is that of the run where a tracker names runs.
        config: resolved recipe.
        images: images seen by a run that is resumed; None for one that starts.

    Raises:
        ConfigError: if a tracker does not start; with its own words.
    """
    path = out / "trackers.json"
    known = json.loads(path.read_text()) if images is not None and path.exists() else {}
    options: dict[str, dict[str, Any]] = {
        "wandb": {"name": out.resolve().name},
        "mlflow": {"run_name": out.resolve().name},
    }
    if images is not None:  # hide what was logged after the checkpoint and comes again
        options["tensorboard"] = {"purge_step": images + 1}
    if "wandb" in known:
        options["wandb"] |= {"id": known["wandb"], "resume": "allow"}
    if "mlflow" in known:
        options["mlflow"] |= {"run_id": known["mlflow"]}
    try:
        accelerator.init_trackers("trilemma", init_kwargs=options)
    except Exception as error:  # whatever the packages raise: no login, no server, a deleted run
        hint = f"; to begin a new record, delete {path}" if known else ""
        raise ConfigError(f"the trackers {list(names)} did not start: {error}{hint}") from error
    if not accelerator.is_main_process:
        return
    values = settings(config)
    for name in names:
        tracker = accelerator.get_tracker(name)
        if name == "tensorboard":  # as text: its table of settings wants a folder for each run
            text = "\n".join(f"    {key}: {value}" for key, value in values.items())
            tracker.log({"settings": text}, step=images or 0)
        elif name != "mlflow" or name not in known:  # mlflow refuses settings that changed
            tracker.store_init_configuration(values)
    found = {name: _identifier(name, accelerator) for name in names if name in ("wandb", "mlflow")}
    if found or known:
        store.write_bytes(path, json.dumps(known | found).encode())


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a resolved recipe as one level of names, those of the command line.

    A class stands under the name of what it fills, its arguments below it:
    ``{"method": "DDGAN", "method.num_steps": 4}``. Lists are JSON text.

    Args:
        config: nested settings.
        prefix: put before every name.
    """
    if "class_path" in config:
        own = {prefix: config["class_path"]}
        return own | settings(config.get("init_args") or {}, prefix)
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            found |= settings(value, name)
        else:
            is_plain = value is None or isinstance(value, bool | int | float | str)
            found[name] = value if is_plain else json.dumps(value, default=str)
    return found


def _identifier(name: str, accelerator: Any) -> str:
    """What the tracker calls the record of this run."""
    record = accelerator.get_tracker(name, unwrap=True)
    return str(record.id if name == "wandb" else record.info.run_id)
