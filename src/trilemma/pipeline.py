"""A trained generative model, ready to sample: what ``trilemma.load`` returns.

A pipeline is a method with averaged weights, the shape of one datum, and a card that says where it
came from. It is one safetensors file whose header holds the full configuration; loading builds the
networks from that configuration and never executes code from the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trilemma import interpolation
from trilemma.checkpoints import store
from trilemma.config import build_method, sampling_config
from trilemma.errors import CheckpointError, ConfigError, nearest
from trilemma.interpolation import Noise, Spacing
from trilemma.methods import Method
from trilemma.methods.base import channels_last
from trilemma.rng import SampleRng
from trilemma.samplers import Sampler
from trilemma.sampling import Start, Walk, labels_for, sample_indices
from trilemma.typing import Final

__all__ = ["Pipeline", "bundled_models", "load", "locate", "save_pipeline", "start_from"]


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
        final: Final | None = None,
        guidance: float = 1.0,
        temperature: float = 1.0,
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
            final: how the walk ends: "none", at the earliest time; "drift", one noiseless step
                more; "x0", with the prediction of clean data as the last of the steps. What suits
                the method by default.
            guidance: weight of classifier-free guidance; 1 for none.
            temperature: scale of the noise that sampling starts from, >= 0; below 1 samples are
                more alike and often cleaner.
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
        _check_temperature(temperature)
        walk = Walk(sampler, num_steps, grid, final, guidance, temperature)
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
        final: Final | None = None,
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
            strength: how far to go back, in (0, 1]: to the ratio of signal to noise that
                VP(0.1, 20) has at that time. A denoising diffusion GAN of T steps knows T times,
                of which the nearest is taken.
            sampler, num_steps, grid, final, guidance, seed, class_label, batch_size, first: as for
                ``sample``.
            return_trajectory: return all states on the way.

        Returns:
            As for ``sample``, one result per datum.

        Raises:
            ConfigError: for data of another shape or a strength outside (0, 1].
        """
        self._check_shape(x0)
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

    def interpolate(
        self,
        first: int | Tensor,
        second: int | Tensor,
        num: int = 9,
        *,
        seed: int = 0,
        class_label: int | None = None,
        batch_size: int = 64,
        spacing: Spacing | None = None,
        progress: Callable[[int], None] | None = None,
        **walk: Any,
    ) -> Tensor:
        """Draw the frames of a path between two samples, or between two data.

        Between samples all noise of a frame, that of random steps and codes included, lies on the
        arc between the noises of the two: the ends are these samples, and every frame is drawn
        from the model. Data are first followed back to their noise; see
        ``trilemma.interpolation``.

        Equal angles of noise can give frames that stay alike and then flip. At equal lengths they
        change evenly, and cost more: draws along the arc measure it first, about five for each
        frame, which ``last_nfe`` counts in.

        Args:
            first: number of the first sample, or a datum (*event_shape).
            second: the same for the other end.
            num: frames, both ends included, >= 2.
            seed: seed of the samples.
            class_label: one class for all frames, which data need if the model has classes. By
                default the classes of the two samples, each for its half of the path.
            batch_size: frames per network call.
            spacing: what neighbouring frames are equally far apart in: "length", the distance
                between their latents, or between data where there are none, measured along the
                path; "angle", their noise. By default "length" for latent models.
            progress: called with the number of frames after each batch.
            walk: sampler, num_steps, grid, final, guidance and temperature, as for ``sample``;
                for data the sampler must be an ``ODE``, their default.

        Returns:
            Frames (num, *event_shape) on the CPU.

        Raises:
            ConfigError: for ends that do not fit, or data and a model that has no way back.
        """
        options: dict[str, Any] = {"class_label": class_label, "batch_size": batch_size}
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            for datum in (first, second):
                self._check_shape(datum[None])
            ends = self.encode_to_noise(torch.stack([first, second]), seed=seed, **options, **walk)
            arc, how = interpolation.between_noises(ends), self._ode(walk)
        elif isinstance(first, Tensor) or isinstance(second, Tensor):
            raise ConfigError("a path joins two samples or two data, not one of each")
        else:
            arc, how = interpolation.between_samples(first, second, seed), Walk(**walk)
        _check_temperature(how.temperature)
        _check_counts(num, batch_size)
        path, calls = arc.path(num), 0
        if interpolation.spacing_for(self.method, spacing) == "length":
            path, calls = interpolation.equal_lengths(self.method, arc, num, how, **options)
        frames = self._frames(path, how, **options, progress=progress)
        self.last_nfe += round(calls / num)
        return frames

    def walk(
        self,
        start: int | Tensor,
        num: int = 48,
        *,
        radius: float = 0.5,
        seed: int = 0,
        class_label: int | None = None,
        batch_size: int = 64,
        progress: Callable[[int], None] | None = None,
        **walk: Any,
    ) -> Tensor:
        """Draw the frames of a closed walk around a sample, or around a datum.

        The noise runs once around a circle whose centre is the start's noise, in two directions
        that the seed draws.

        Args:
            start: number of a sample, or a datum (*event_shape).
            num: frames, >= 2; the first follows the last.
            radius: angle between the noise of the start and that of every frame, radians in
                (0, pi / 2]; at the right angle nothing of the start is left.
            seed: seed of the sample and of the directions.
            class_label: one class for all frames; the sample's by default, and needed for a datum
                if the model has classes.
            batch_size, progress, walk: as for ``interpolate``.

        Returns:
            Frames (num, *event_shape) on the CPU.

        Raises:
            ConfigError: as for ``interpolate``.
        """
        options: dict[str, Any] = {"class_label": class_label, "batch_size": batch_size}
        centre: int | Noise
        if isinstance(start, Tensor):
            centre = self.encode_to_noise(start[None], seed=seed, **options, **walk)
            how = self._ode(walk)
        else:
            centre, how = start, Walk(**walk)
        path = interpolation.around(centre, num, radius, seed)
        return self._frames(path, how, **options, progress=progress)

    def encode_to_noise(
        self,
        x0: Tensor,
        *,
        seed: int = 0,
        class_label: int | None = None,
        batch_size: int = 64,
        **walk: Any,
    ) -> Noise:
        """Follow data back along the probability flow to the noise that leads to them.

        It leads to the data as they are at the end of a sampling grid, where the process has put
        a little noise on them; that is drawn.

        Args:
            x0: data (n, *event_shape), images in [-1, 1].
            seed: seed of that noise, and of the velocities of Langevin diffusion.
            class_label: class of the data, needed if the model has classes.
            batch_size: data per network call; an adaptive solver shares its steps in a batch.
            walk: sampler (an ``ODE``, the default), num_steps, grid and guidance.

        Returns:
            Noise on the CPU, standard normal for samples of the model.

        Raises:
            ConfigError: for data of another shape, or a model without a probability flow.
        """
        self._check_shape(x0)
        _check_counts(len(x0), batch_size)
        how, device, parts = self._ode(walk), next(self.method.parameters()).device, []
        label = self._label_of_data(len(x0), class_label, device)
        for i in range(0, len(x0), batch_size):
            rows = slice(i, i + batch_size)
            batch, chosen = x0[rows].to(device), None if label is None else label[rows]
            rng = SampleRng(seed, range(i, i + len(batch)), device)
            found = interpolation.encode_to_noise(self.method, batch, how, rng, chosen)
            parts.append(found)
        others = zip(*(part.others for part in parts), strict=True)
        return Noise(
            torch.cat([part.state for part in parts]).cpu(),
            tuple(torch.cat(group).cpu() for group in others),
        )

    def decode_from_noise(
        self,
        noise: Noise,
        *,
        class_label: int | None = None,
        batch_size: int = 64,
        progress: Callable[[int], None] | None = None,
        **walk: Any,
    ) -> Tensor:
        """Follow noise along the probability flow to data, the inverse of ``encode_to_noise``.

        Args:
            noise: as ``encode_to_noise`` returns it.
            class_label, batch_size, progress, walk: as there, and for ``sample``.

        Returns:
            Data (n, *event_shape) on the CPU; those of latent models as their decoder gives them.
        """
        self._label_of_data(1, class_label, "cpu")
        path, how = interpolation.from_noise(noise), self._ode(walk)
        return self._frames(path, how, class_label, batch_size, progress)

    def reconstruct(self, x0: Tensor, *, batch_size: int = 64) -> Tensor:
        """Encode data to the means of their latents and decode these: what latents keep.

        Args:
            x0: data (n, *event_shape), images in [-1, 1].
            batch_size: data per network call.

        Returns:
            Data (n, *event_shape) on the CPU.

        Raises:
            ConfigError: for a model without an autoencoder, or data of another shape.
        """
        self._check_shape(x0)
        _check_counts(len(x0), batch_size)
        device = next(self.method.parameters()).device
        batches = (batch.to(device) for batch in x0.split(batch_size))
        parts = [interpolation.reconstruct(self.method, batch).cpu() for batch in batches]
        return torch.cat(parts).float()

    def _frames(
        self,
        path: interpolation.Path,
        walk: Walk,
        class_label: int | None,
        batch_size: int,
        progress: Callable[[int], None] | None,
    ) -> Tensor:
        _check_counts(len(path.weights), batch_size)
        _check_temperature(walk.temperature)
        label = labels_for(self.num_classes, path.indices, class_label)
        parts = []
        for drawn in interpolation.draw_path(
            self.method, path, walk, label, batch_size=batch_size, progress=progress
        ):
            self.last_nfe = drawn.nfe
            parts.append(drawn.data.float().cpu())
        return torch.cat(parts)

    def _ode(self, walk: Mapping[str, Any]) -> Walk:
        """The way that data take, there and back."""
        return interpolation.invertible(self.method, Walk(**walk))

    def _label_of_data(
        self, num: int, class_label: int | None, device: torch.device | str
    ) -> Tensor | None:
        if self.num_classes and class_label is None:
            raise ConfigError(
                f"this model draws {self.num_classes} classes: say with class_label which one the "
                "data are of"
            )
        label = labels_for(self.num_classes, range(num), class_label)
        return None if label is None else label.to(device)

    def _check_shape(self, x0: Tensor) -> None:
        if tuple(x0.shape[1:]) != self.event_shape:
            raise ConfigError(
                f"data of shape {tuple(x0.shape[1:])} given, {self.event_shape} needed"
            )

    def _collect(self, walk: Walk, indices: range, keep: bool, **options: Any) -> Tensor:
        parts = []
        for drawn in sample_indices(self.method, indices, walk, keep=keep, **options):
            self.last_nfe = drawn.nfe
            parts.append(drawn.data if drawn.trajectory is None else drawn.trajectory)
        return torch.cat([part.float().cpu() for part in parts], dim=1 if keep else 0)


def _check_counts(num: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1")
    if num < 1:
        raise ConfigError(f"num={num} samples: ask for at least 1")


def _check_temperature(temperature: float) -> None:
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature={temperature} must be a finite number >= 0")


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
    stored = store.read(locate(str(name)), "pipeline")
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


def start_from(method: Method, name: str | Path, only: Sequence[str] = ()) -> list[str]:
    """Take over the networks that another model has trained already, such as a first stage.

    Networks go by their names in the method: a latent model takes the autoencoder of a VAE, a
    second run of a recipe all of its networks.

    Args:
        method: the method to start; changed in place.
        name: bundled name, path, or Hub id of the other model.
        only: networks to take over, such as "autoencoder"; all that both have by default.

    Returns:
        Names of the parts that were taken over.

    Raises:
        CheckpointError: if the two have no network in common, or one that differs.
    """
    tensors = store.read(locate(str(name)), "pipeline").tensors
    networks = {name for names in method.phases.values() for name in names} | set(method.kept)
    for part in only:
        if part not in networks:
            raise ConfigError(f"no network {part!r} to start; {nearest(part, networks)}")
    networks = set(only) or networks
    taken = []
    for part in sorted(networks):
        own, given = _weights_of(method.state_dict(), part), _weights_of(tensors, part)
        if not given:
            continue
        differ = sorted(set(own) ^ set(given))
        differ += [key for key in own if key in given and own[key].shape != given[key].shape]
        if differ:
            raise CheckpointError(
                f"cannot start from {name}: {part} differs in {differ[0]!r} (and {len(differ) - 1} "
                "others); both recipes must describe it alike"
            )
        method.load_state_dict(given, strict=False)
        taken.append(part)
    if not taken:
        raise CheckpointError(
            f"cannot start from {name}: it has none of {', '.join(sorted(networks))}"
        )
    return taken


def _weights_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Tensors of one network; vectors of power iterations, which any start will do for, apart."""
    return {
        key: value
        for key, value in state.items()
        if key.startswith(f"{part}.") and not key.startswith(f"{part}.spectral.")
    }


def locate(name: str) -> Path:
    """Find the file of a model by bundled name, path, run folder or Hub id.

    Raises:
        CheckpointError: if there is no such model; a path may still turn out not to be one.
    """
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
