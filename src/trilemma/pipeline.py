"""A trained generative model, ready to sample: what ``trilemma.load`` returns.

A pipeline is a method with averaged weights, the shape of one datum, and a card that says where it
came from. It is one safetensors file whose header holds the full configuration; loading builds the
networks from that configuration and never executes code from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trilemma.checkpoints import store
from trilemma.config import build_method, sampling_config
from trilemma.errors import CheckpointError, ConfigError, nearest
from trilemma.methods import Method
from trilemma.methods.base import channels_last
from trilemma.sampling import sample_indices

__all__ = ["Pipeline", "bundled_models", "load", "save_pipeline"]


class Pipeline:
    """A method in eval mode with the shape of its data.

    Args:
        method: trained method.
        event_shape: shape of one datum, (c, h, w) for images.
        class_names: names of the classes, empty if unknown.
        card: where the weights came from: data, hardware, length, figures.
    """

    def __init__(
        self,
        method: Method,
        event_shape: tuple[int, ...],
        *,
        class_names: tuple[str, ...] = (),
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = channels_last(method.eval().requires_grad_(False))
        self.event_shape, self.class_names = tuple(event_shape), tuple(class_names)
        self.card = dict(card or {})

    @property
    def num_classes(self) -> int:
        """Class labels that sampling takes; 0 for none."""
        return self.method.num_classes

    @property
    def num_steps(self) -> int:
        """Steps of the default grid."""
        return len(self.method.grid()) - 1

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the networks to a device and return the pipeline."""
        self.method.to(device)
        return self

    def sample(
        self,
        num: int,
        *,
        num_steps: int | None = None,
        seed: int = 0,
        class_label: int | None = None,
        batch_size: int = 64,
        first: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Draw samples; sample i depends on the seed and i alone.

        Args:
            num: how many.
            num_steps: steps of the grid; what the method was trained for by default.
            seed: seed shared by all samples.
            class_label: one class for all; by default sample i shows class i mod num_classes.
            batch_size: samples per network call.
            first: index of the first sample.
            progress: called with the number of samples after each batch.

        Returns:
            Floats (num, *event_shape) on the CPU; images in [-1, 1].

        Raises:
            ConfigError: for a number of steps or a class that the model does not have.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        if num < 1:
            raise ConfigError(f"num={num} samples: ask for at least 1")
        batches = sample_indices(
            self.method,
            self.event_shape,
            range(first, first + num),
            seed=seed,
            num_steps=num_steps,
            class_label=class_label,
            batch_size=batch_size,
            progress=progress,
        )
        return torch.cat([data.float().cpu() for data, _ in batches])


def save_pipeline(
    path: Path | str,
    method: Method,
    method_config: Mapping[str, Any],
    event_shape: tuple[int, ...],
    *,
    class_names: tuple[str, ...] = (),
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write the networks that sampling needs, with their configuration, to one file."""
    header = {
        "method": sampling_config(method_config),
        "event_shape": list(event_shape),
        "class_names": list(class_names),
        "card": dict(card or {}),
    }
    store.write(path, "pipeline", method.sampling_state(), header)


def bundled_models() -> dict[str, Path]:
    """Models that ship with the package: name to file."""
    folder = Path(str(resources.files("trilemma"))) / "zoo" / "models"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def load(name: str | Path, *, device: torch.device | str = "cpu") -> Pipeline:
    """Load a model by bundled name, path, or Hub id ("owner/name").

    Raises:
        CheckpointError: if there is no such model, or its file is truncated, altered or foreign.
    """
    stored = store.read(_locate(str(name)), "pipeline")
    header = stored.header
    absent = {"method", "event_shape", "class_names", "card"} - set(header)
    if absent:
        raise CheckpointError(f"the header of {name} has no {', '.join(sorted(absent))}")
    method = build_method(header["method"])
    try:
        missing, unexpected = method.load_state_dict(stored.tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"the tensors of {name} do not fit its configuration: {str(error).splitlines()[-1]}"
        ) from error
    if missing or unexpected:
        raise CheckpointError(
            f"the tensors of {name} do not fit its configuration: {len(missing)} missing "
            f"{missing[:2]}, {len(unexpected)} unknown {unexpected[:2]}"
        )
    pipeline = Pipeline(
        method,
        tuple(header["event_shape"]),
        class_names=tuple(header["class_names"]),
        card=header["card"],
    )
    return pipeline.to(device)


def _locate(name: str) -> Path:
    path = Path(name)
    if path.is_dir() and (path / "model.safetensors").exists():
        return path / "model.safetensors"
    if path.is_dir():
        raise CheckpointError(f"{path} holds no model.safetensors; it appears at the first save")
    if path.exists() or path.suffix == ".safetensors" or (path.parent.is_dir() and "/" in name):
        return path
    if name in bundled_models():
        return bundled_models()[name]
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _download(name)
    raise CheckpointError(
        f"no model {name!r}: neither a file, nor a bundled name; {nearest(name, bundled_models())}"
    )


def _download(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"model {name!r} looks like a Hub id; pip install 'trilemma[hub]' to fetch it"
        ) from error
    try:
        return Path(hf_hub_download(name, "model.safetensors"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"cannot fetch model.safetensors of {name!r} from the Hub, and it is not in the cache; "
            "check the name and the connection"
        ) from error
