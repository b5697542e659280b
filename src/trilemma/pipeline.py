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
from trilemma.samplers import Sampler
from trilemma.samplers.base import Final
from trilemma.sampling import Start, Walk, sample_indices

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
        self.last_nfe = 0
        """Network calls per sample of the latest drawing."""

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
        sampler: Sampler | str | None = None,
        num_steps: int | None = None,
        grid: str | None = None,
        final: Final = "none",
        guidance: float = 1.0,
        seed: int = 0,
        class_label: int | None = None,
        batch_size: int = 64,
        first: int = 0,
        return_trajectory: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Draw samples; sample i depends on the seed and i alone.

        Args:
            num: how many.
            sampler: a sampler or its name; what suits the method by default.
            num_steps: steps of the grid; what the method suggests by default.
            grid: "uniform", "quadratic", "root", "rho" or "log_snr"; by default as above.
            final: what follows the last step: "none", "drift" or "x0".
            guidance: weight of classifier-free guidance; 1 for none.
            seed: seed shared by all samples.
            class_label: one class for all; by default sample i shows class i mod num_classes.
            batch_size: samples per network call.
            first: index of the first sample.
            return_trajectory: return all states on the way.
            progress: called with the number of samples after each batch.

        Returns:
            Floats (num, *event_shape) on the CPU; images in [-1, 1]. With ``return_trajectory``
            the data block of every state, (steps + 1, num, *event_shape), from noise to data, and
            the result of ``final`` after them where it is not "none".

        Raises:
            ConfigError: for a sampler, a number of steps or a class that does not fit the model.
        """
        _check_counts(num, batch_size)
        walk = Walk(sampler, num_steps, grid, final, guidance)
        return self._collect(
            walk,
            range(first, first + num),
            return_trajectory,
            seed=seed,
            class_label=class_label,
            batch_size=batch_size,
            progress=progress,
        )

    def edit(
        self,
        x0: Tensor,
        strength: float = 0.5,
        *,
        sampler: Sampler | str | None = None,
        num_steps: int | None = None,
        grid: str | None = None,
        final: Final = "none",
        guidance: float = 1.0,
        seed: int = 0,
        class_label: int | None = None,
        batch_size: int = 64,
        first: int = 0,
        return_trajectory: bool = False,
    ) -> Tensor:
        """Noise data up to a level and denoise them: strokes to images, variations.

        Args:
            x0: data (num, *event_shape), images in [-1, 1].
            strength: time to go back to, in (0, 1]; the grid starts at its time nearest to it. A
                denoising diffusion GAN of T steps knows T such times.
            sampler, num_steps, grid, final, guidance, seed, class_label, batch_size, first: as for
                ``sample``.
            return_trajectory: return all states on the way.

        Returns:
            As for ``sample``, one result per datum.

        Raises:
            ConfigError: for data of another shape or a strength outside (0, 1].
        """
        if tuple(x0.shape[1:]) != self.event_shape:
            raise ConfigError(
                f"data of shape {tuple(x0.shape[1:])} given, {self.event_shape} needed"
            )
        _check_counts(len(x0), batch_size)
        return self._collect(
            Walk(sampler, num_steps, grid, final, guidance),
            range(first, first + len(x0)),
            return_trajectory,
            seed=seed,
            class_label=class_label,
            batch_size=batch_size,
            start=Start(x0, strength),
        )

    def _collect(self, walk: Walk, indices: range, keep: bool, **options: Any) -> Tensor:
        parts = []
        for drawn in sample_indices(
            self.method, self.event_shape, indices, walk, keep=keep, **options
        ):
            self.last_nfe = drawn.nfe
            parts.append(drawn.data if drawn.trajectory is None else drawn.trajectory)
        return torch.cat([part.float().cpu() for part in parts], dim=1 if keep else 0)


def _check_counts(num: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1")
    if num < 1:
        raise ConfigError(f"num={num} samples: ask for at least 1")


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
