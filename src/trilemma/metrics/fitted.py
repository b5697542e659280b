r"""Features fitted on the user's own images: what judges models of pictures nobody else has.

ImageNet's features are wide (a thousand numbers and more), slow on a processor, and were made for
photographs. For images of one kind a network of some hundred thousand parameters is enough, as the
bundled digit classifier shows. Its 64 features are few on purpose: the bias of a Frechet distance
grows with features per sample, so that distances keep a low floor at some hundred images.

A classifier alone learns to ignore what does not change the class: blur, noise, position. Those
are the flaws that a metric must see. ``training.features`` therefore asks the features for three
things at once: the class, what was done to the image (shift, rotation, slant, scale, blur, noise,
contrast, brightness), and the image's leading principal components. The last keep the content
where there are no labels.

Real images hardly differ in blur or noise, so these directions of the features have little
variance, and a distance would overlook them; whitening would make a distance see little else. The
features go half the way: on the images of the fit their covariance is C^{1/2}, C the correlation
matrix of the activations (C as they are, the identity if whitened).

The file carries weights and a header: name, sizes, classes, accuracy on images that were held out,
and a *card*, which says how far the Frechet distance moves for known flaws (``hardly_seen``). A
distance on these features is called ``fd_<name>``; two distances compare only if the SHA-256 of the
file is the same. No name may look like a score of the true Inception: the words FID, KID and
Inception score are for its weights alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from trilemma.errors import CheckpointError, ConfigError, DataError
from trilemma.metrics.features import EXTRACTORS, FeatureExtractor

__all__ = [
    "FLAWS",
    "KIND",
    "MAX_SIDE",
    "MIN_SIDE",
    "FeatureNet",
    "FittedFeatures",
    "average_down",
    "caution",
    "check_name",
    "hardly_seen",
]

KIND = "features"
"""Kind of the file, beside "pipeline" and "training"."""
MIN_SIDE, MAX_SIDE = 16, 64
"""Sides that the network can read, pixels; larger images are averaged down."""
NAME = re.compile(r"[a-z0-9_]+")
PUBLISHED = re.compile(r".*(fid|inception).*|kid|is")
"""Names that would make a score look like one of the true Inception's."""
FLAWS = {
    "blur": "blurred by 1 pixel",
    "noise": "noise of 0.05",
    "one_class": "largest class only",
    "repeats": "16 images repeated",
}
"""Known flaws on the card of a file, in words; its entry ``real`` is the floor."""
SEEN = 1.5
"""A flaw is seen where its distance is this many times the floor."""


class FeatureNet(nn.Module):
    """Map square images to ``dim`` features, and these to classes.

    Stages of convolution, batch norm and ReLU bring the side down to an eighth, of sides above 32
    to a sixteenth. A linear map of all remaining values, which keeps their position, makes the
    features; it also reads the mean activations of the first two stages, which see all pixels and
    tell blur and noise.

    Args:
        channels: 1 for grey, 3 for colour.
        side: pixels, in [16, 64].
        num_classes: number of classes; 0 without labels, then there is no head.
        dim: number of features.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, channels: int, side: int, num_classes: int, dim: int = 64) -> None:
        super().__init__()
        if channels not in (1, 3) or not MIN_SIDE <= side <= MAX_SIDE:
            raise ConfigError(
                f"channels = {channels}, side = {side}; allowed: 1 or 3 channels, sides of "
                f"{MIN_SIDE} to {MAX_SIDE} pixels"
            )
        if num_classes < 0 or num_classes == 1 or dim < 1:
            raise ConfigError(
                f"num_classes = {num_classes}, dim = {dim}; allowed: 0 or at least 2 classes, at "
                "least 1 feature"
            )
        self.channels, self.side, self.num_classes, self.dim = channels, side, num_classes, dim
        self.center: Tensor
        self.balance: Tensor
        self.first = _stage(channels, 32, 5, 2)
        self.second = _stage(32, 32, 3, 2 if side > 32 else 1)
        self.rest = nn.Sequential(
            _stage(32, 64, 3, 2), _stage(64, 64, 3, 1), nn.MaxPool2d(2), nn.Flatten()
        )
        self.texture = nn.Sequential(
            nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64)
        )
        halved = -(-side // 4) if side <= 32 else -(-side // 8)
        self.bottleneck = nn.Sequential(
            nn.Linear(64 * (halved // 2) ** 2 + 64, dim, bias=False), nn.BatchNorm1d(dim)
        )
        self.head = nn.Linear(dim, num_classes) if num_classes else None
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("balance", torch.eye(dim))

    def hidden(self, images: Float[Tensor, "n c s s"]) -> Float[Tensor, "n d"]:
        """Return the activations that heads read, not standardised.

        Args:
            images: in [0, 1], (n, channels, side, side).

        Returns:
            Activations, (n, dim).
        """
        first = self.first(2 * images - 1)
        second = self.second(first)
        texture = self.texture(torch.cat([first.mean((2, 3)), second.mean((2, 3))], 1))
        return self.bottleneck(torch.cat([self.rest(second), texture], 1))

    def features(self, images: Float[Tensor, "n c s s"]) -> Float[Tensor, "n d"]:
        """Return the features, centred and balanced on the images of the fit.

        Args:
            images: in [0, 1], (n, channels, side, side).

        Returns:
            Features, (n, dim).
        """
        return (self.hidden(images) - self.center) @ self.balance

    def logits(self, hidden: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the logits of the classes.

        Args:
            hidden: what ``hidden`` returned, (n, dim).

        Returns:
            Logits, (n, num_classes).

        Raises:
            ConfigError: the network was built without classes.
        """
        if self.head is None:
            raise ConfigError("this network was built without classes")
        return self.head(torch.relu(hidden))


def _stage(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class FittedFeatures(FeatureExtractor):
    """Use features that ``trilemma features`` fitted on the user's own images.

    Attributes:
        class_names: the classes; () where the images had no labels.
        about: the file's header: accuracy, card, number of images, seed, version, date.
        hardly_seen: the known flaws that these features hardly see, in words.

    Args:
        path: the file, ``*.safetensors``.

    Raises:
        CheckpointError: the file is missing, damaged, or no file of features.
        ConfigError: its features bear a name that is not theirs.
    """

    def __init__(self, path: str | Path) -> None:
        content, tensors, self.about = _read(Path(path))
        try:
            shape = self.about["network"]
            self.network = FeatureNet(**{key: int(value) for key, value in shape.items()})
            self.network.load_state_dict(tensors)
            name = self.about["name"]
            card = {key: float(value) for key, value in self.about.get("card", {}).items()}
            names = tuple(str(name) for name in self.about["class_names"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{path}: header and weights of the features do not fit ({reason}); fit them again "
                "with `trilemma features`"
            ) from error
        try:
            self.name = check_name(name)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}, and fit them again") from error
        if len(names) not in (0, self.network.num_classes):
            raise CheckpointError(
                f"{path} names {len(names)} classes, its network has {self.network.num_classes}"
            )
        if not all(torch.isfinite(tensor).all() for tensor in self.network.state_dict().values()):
            raise CheckpointError(f"{path} holds weights that are not finite; fit them again")
        self.network.eval().requires_grad_(False)
        self._inverse = torch.linalg.inv(self.network.balance.double())
        self.hardly_seen = hardly_seen(card)
        self.class_names = names or tuple(map(str, range(self.network.num_classes)))
        self.dim = self.network.dim
        self.weights_sha256 = hashlib.sha256(content).hexdigest()
        side, colour = self.network.side, "rgb" if self.network.channels == 3 else "grey"
        larger = ", larger ones averaged down" if side == MAX_SIDE else ""
        self.preprocessing = f"{colour}, {side}x{side}{larger}, divided by 255"

    def check(self, images: Tensor) -> None:
        """Refuse images of another size or colour than those of the fit.

        Args:
            images: the argument of a call.

        Raises:
            DataError: another type, size or number of channels.
        """
        super().check(images)
        channels, height, width = images.shape[1:]
        side = self.network.side
        fits = height == width and (height == side or (side == MAX_SIDE and height > side))
        if channels != self.network.channels or not fits:
            more = " or more" if side == MAX_SIDE else ""
            raise DataError(
                f"images are {channels} x {height} x {width}; the features {self.name!r} were "
                f"fitted on {self.network.channels} x {side} x {side}{more}: fit others on images "
                "of the models' size, trilemma features --data X --data.image_size N"
            )

    def extract(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the standardised features of one batch.

        Args:
            images: uint8, (n, c, h, w).

        Returns:
            Features, (n, dim).
        """
        return self.network.features(average_down(images.cpu()).float() / 255)

    def probabilities_of(self, features: Float[Tensor, "n d"]) -> Float64[Tensor, "n k"] | None:
        """Return the probabilities of the classes, in the order of ``class_names``.

        Args:
            features: what a call returned, (n, dim).

        Returns:
            Probabilities, float64, (n, k), each row summing to 1; None for features that were
            fitted without labels.
        """
        if not self.network.num_classes:
            return None
        hidden = features.cpu().double() @ self._inverse + self.network.center.double()
        with torch.inference_mode():
            return self.network.logits(hidden.float()).double().softmax(1).clone()


def average_down(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c s s"]:
    """Bring square images above 64 pixels down to 64 by means over areas; leave others alone.

    Args:
        images: uint8, (n, c, h, h).

    Returns:
        Images, uint8, (n, c, s, s) with s = min(h, 64).
    """
    if images.shape[-1] <= MAX_SIDE:
        return images
    return F.interpolate(images.float(), (MAX_SIDE, MAX_SIDE), mode="area").round().to(torch.uint8)


def check_name(name: str) -> str:
    """Return a name that features may bear, or say what is wrong with it.

    Args:
        name: part of the metric's name, ``fd_<name>``.

    Returns:
        The name.

    Raises:
        ConfigError: other characters than a-z, 0-9 and _, the name of other features, or one that
            makes a score look like a FID, a KID or an Inception score.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"features called {name!r}: names hold a-z, 0-9 and _ only; give --name")
    if name in EXTRACTORS:
        raise ConfigError(
            f"features called {name!r}: the name belongs to other features; give --name, and not "
            f"one of {', '.join(sorted(EXTRACTORS))}"
        )
    if PUBLISHED.fullmatch(name):
        raise ConfigError(
            f"features called {name!r}: FID, KID and Inception score are words for the true "
            "Inception; give --name, and not kid, is, or one that holds fid or inception"
        )
    return name


def hardly_seen(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the flaws that features hardly see: their distance is not well above the floor.

    Args:
        card: Frechet distances by the keys of ``FLAWS``, and ``real``, that of other real images.

    Returns:
        The flaws in the words of ``FLAWS``; () for a card without a floor.
    """
    floor = card.get("real")
    if floor is None:
        return ()
    return tuple(told for key, told in FLAWS.items() if key in card and card[key] < SEEN * floor)


def caution(flaws: Iterable[str]) -> str:
    """Return what to beware of where features hardly see some flaws, as the end of a sentence.

    Args:
        flaws: what ``hardly_seen`` returned, at least one.

    Returns:
        "hardly see: ...", without a full stop.
    """
    return f"hardly see: {', '.join(flaws)}. Do not compare models by them where that matters"


def _read(path: Path) -> tuple[bytes, dict[str, Tensor], dict[str, Any]]:
    """Return the content of a file of features, its tensors and its header."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        tensors = load(content)  # refuses what is truncated
        length = int.from_bytes(content[:8], "little")
        notes = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
        header = json.loads(notes.get("header", "{}"))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({len(content)} bytes)"
        ) from error
    if notes.get("kind") != KIND or not isinstance(header, dict):
        kind = f"a {notes['kind']} file" if "kind" in notes else "a foreign safetensors file"
        raise CheckpointError(
            f"{path} is {kind}, not one of features; make one with `trilemma features`"
        )
    return content, tensors, header
