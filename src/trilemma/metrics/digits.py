r"""The bundled digit classifier and the reference statistics of the MNIST digits.

A Frechet distance needs features that mean something for the images at hand. For digits a
convolutional network of 0.1 million parameters is enough: its 64 penultimate features are full
rank for a few hundred images, so that distances have a low floor, and its classes count the modes
of stacked digits. Beside the class, the features were trained to tell the position, slant, size,
blur and noise of a digit (seven regressions, whose heads are not kept): a classifier alone learns
to ignore exactly the flaws that a quality metric must see.

Whether images are digits at all is told by the probability that the classifier gives to the class
it finds most probable, on average (``certainty``). The test digits of MNIST score 0.97, 24 of them
at least 0.91; other digits, handwritten at 8 x 8 pixels or printed, 0.87 to 0.93. Printed letters
score 0.70 (small) and 0.74 (capitals), mirrored digits 0.81, emoji 0.66, clothes (Fashion-MNIST)
0.62, inverted digits 0.52. Below ``LEAST_CERTAINTY`` images are not taken for digits. That finds
wrong data and proves no right ones: black images and uniform noise score 0.93.

Both files lie inside the package (``zoo/``), so that nothing is ever downloaded:

* ``digit-classifier.safetensors``: the weights; its header records how they were made;
* ``mnist-reference.safetensors``: mean and covariance of the features of the 60,000 training and
  the 10,000 test digits, and 512 test digits with their labels. The digits are MNIST's (LeCun,
  Cortes and Burges, 1998), CC BY-SA 3.0.
"""

import functools
import hashlib
import importlib.resources
import json
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from trilemma.errors import CheckpointError, DataError
from trilemma.metrics.frechet import GaussianStats

__all__ = [
    "LEAST_CERTAINTY",
    "DigitNet",
    "MnistReference",
    "certainty",
    "classify",
    "crop_digits",
    "digit_net",
    "mnist_reference",
    "stacked_distribution",
    "zoo_bytes",
]

CLASSIFIER_FILE = "digit-classifier.safetensors"
REFERENCE_FILE = "mnist-reference.safetensors"
SIDE = 28
TRAIN_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081
LEAST_CERTAINTY = 0.85
"""Mean probability of the most probable class that handwritten digits do not fall below."""


class DigitNet(nn.Module):
    """Classify 28 x 28 grey digits through 64 features.

    Three stages of convolution, batch norm and ReLU at 14, 7 and 3 pixels, a linear map of the
    576 remaining values to ``dim`` features (which keeps their position, unlike a mean over
    space), and a linear map to ten classes.

    Args:
        dim: number of features.
    """

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.center: Tensor
        self.spread: Tensor
        self.body = nn.Sequential(
            *_stage(1, 32, kernel=5, stride=2),
            *_stage(32, 32, kernel=3, stride=1),
            *_stage(32, 64, kernel=3, stride=2),
            *_stage(64, 64, kernel=3, stride=1),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.bottleneck = nn.Sequential(nn.Linear(576, dim, bias=False), nn.BatchNorm1d(dim))
        self.head = nn.Linear(dim, 10)
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))

    def hidden(self, images: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n d"]:
        """Return the penultimate activations before ReLU, not standardised.

        Args:
            images: grey levels in [0, 1], white on black, (n, 1, 28, 28).

        Returns:
            Activations, (n, dim).
        """
        return self.bottleneck(self.body((images - PIXEL_MEAN) / PIXEL_STD))

    def features(self, images: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n d"]:
        """Return the penultimate features, of mean 0 and variance 1 on the training digits.

        Args:
            images: grey levels in [0, 1], white on black, (n, 1, 28, 28).

        Returns:
            Features, (n, dim).
        """
        return (self.hidden(images) - self.center) / self.spread

    def forward(self, images: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 10"]:
        """Return the logits of the ten classes.

        Args:
            images: grey levels in [0, 1], white on black, (n, 1, 28, 28).

        Returns:
            Logits, (n, 10).
        """
        return self.head(torch.relu(self.hidden(images)))


def _stage(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


@dataclass(frozen=True)
class MnistReference:
    """What the package knows of MNIST without the data set.

    Attributes:
        train: statistics of the features of the 60,000 training digits.
        test: statistics of the features of the 10,000 test digits.
        images: 512 test digits, uint8 (512, 1, 28, 28).
        labels: their classes, int64 (512).
        licence: of the digits.
    """

    train: GaussianStats
    test: GaussianStats
    images: UInt8[Tensor, "n 1 28 28"]
    labels: Int64[Tensor, " n"]
    licence: str


def zoo_bytes(name: str) -> bytes:
    """Read a file of the package's zoo.

    Args:
        name: file name without a folder.

    Returns:
        Its content.

    Raises:
        CheckpointError: the file is not in the installed package.
    """
    try:
        return importlib.resources.files("trilemma").joinpath("zoo", name).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{name} is missing from the installed package; reinstall trilemma"
        ) from error


@functools.cache
def digit_net() -> tuple[DigitNet, str]:
    """Load the bundled classifier, once.

    Returns:
        The network in evaluation mode, without gradients, on the CPU, and the SHA-256 of its file.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    content = zoo_bytes(CLASSIFIER_FILE)
    net = DigitNet()
    try:
        missing, unexpected = net.load_state_dict(load(content), strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{CLASSIFIER_FILE} is damaged; reinstall trilemma") from error
    if unexpected or any("num_batches" not in key for key in missing):
        raise CheckpointError(f"{CLASSIFIER_FILE} does not fit DigitNet; reinstall trilemma")
    return net.eval().requires_grad_(False), hashlib.sha256(content).hexdigest()


@functools.cache
def mnist_reference() -> MnistReference:
    """Load the reference statistics and digits, once.

    The statistics belong to the bundled classifier and mean nothing for other features.

    Returns:
        Statistics of both splits, 512 test digits and their labels.

    Raises:
        CheckpointError: the file is missing or damaged, or was made for another classifier.
    """
    content = zoo_bytes(REFERENCE_FILE)
    try:
        tensors, notes = load(content), _header(content)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{REFERENCE_FILE} is damaged; reinstall trilemma") from error
    if notes["classifier_sha256"] != digit_net()[1]:
        raise CheckpointError(f"{REFERENCE_FILE} belongs to another classifier; reinstall trilemma")
    train, test = (
        GaussianStats(
            tensors[f"{split}.mean"],
            tensors[f"{split}.cov"],
            int(notes[f"{split}_samples"]),
            split,
        )
        for split in ("train", "test")
    )
    return MnistReference(
        train, test, tensors["images"], tensors["labels"].long(), notes["licence"]
    )


def stacked_distribution(channels: int = 3) -> Float64[Tensor, " m"]:
    """Return the law of the numbers that stacked training digits show.

    MNIST's classes are not equally frequent: the training digits, stacked at random, are 0.0043
    nats away from uniform at three channels. Pass this as ``reference`` to ``mode_statistics`` to
    measure against the data instead of against uniform.

    Args:
        channels: digits per image.

    Returns:
        Probabilities of 0 to 10^channels - 1, (10^channels), float64.
    """
    share = torch.tensor(TRAIN_COUNTS, dtype=torch.float64) / sum(TRAIN_COUNTS)
    law = torch.ones(1, dtype=torch.float64)
    for _ in range(channels):
        law = torch.outer(law, share).flatten()
    return law


def _header(content: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file: 8 bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]


def crop_digits(images: Tensor) -> Tensor:
    """Return the central 28 x 28 pixels of 28 x 28 or padded 32 x 32 images.

    Args:
        images: uint8, (n, c, h, w) with h = w = 28 or 32.

    Returns:
        Images, (n, c, 28, 28).

    Raises:
        DataError: another type or size.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise DataError(
            f"digits are {images.dtype} of shape {tuple(images.shape)}; expected uint8 (n, c, h, w)"
            " with n > 0"
        )
    height, width = images.shape[2:]
    if height != width or height not in (28, 32):
        raise DataError(
            f"digits measure {height} x {width} pixels; the digit classifier reads 28 x 28, or 32 x"
            " 32 with a 2-pixel margin"
        )
    edge = (height - SIDE) // 2
    return images[:, :, edge : edge + SIDE, edge : edge + SIDE]


def classify(images: Tensor, *, batch_size: int = 1000) -> Int64[Tensor, "n c"]:
    """Name the digit in each channel: the way to read stacked digits.

    Args:
        images: uint8, white digits on black, (n, c, h, w) with h = w = 28 or 32.
        batch_size: digits per forward pass.

    Returns:
        Classes 0..9, (n, c).

    Raises:
        DataError: another type or size.
    """
    return _logits(images, batch_size).argmax(1).reshape(len(images), -1)


def certainty(images: Tensor, *, batch_size: int = 1000) -> float:
    """Return how sure the classifier is of what it sees, to tell digits from other images.

    Args:
        images: uint8, (n, c, h, w) with h = w = 28 or 32.
        batch_size: digits per forward pass.

    Returns:
        Probability of the most probable class, mean over images and channels, in [0.1, 1];
        0.97 for MNIST, below ``LEAST_CERTAINTY`` for what is not digits.

    Raises:
        DataError: another type or size.
    """
    return float(_logits(images, batch_size).double().softmax(1).amax(1).mean())


def _logits(images: Tensor, batch_size: int) -> Float[Tensor, "m 10"]:
    """Return the classifier's logits of each channel of each image."""
    digits = crop_digits(images).reshape(-1, 1, SIDE, SIDE)
    net, _ = digit_net()
    with torch.inference_mode():
        parts = [net(part.cpu().float() / 255) for part in digits.split(batch_size)]
    return torch.cat(parts).clone()
