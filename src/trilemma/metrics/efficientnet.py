r"""EfficientNet-Lite0, for inference.

The network of Tan and Le (2019) without squeeze-excitation and with ReLU6 in place of swish, as
released for small devices (2020). A stem, sixteen inverted residual blocks (widen by 1 x 1,
filter each channel, narrow by 1 x 1; Sandler et al., 2018) and a head to 1280 maps. Three details
come from TensorFlow, where the weights were trained: strided convolutions pad as "SAME" does (an
odd pixel goes to the lower right), batch norm adds 1e-3 to the variance, and bytes enter as
(x - 127) / 128. Module names are those of the published state dict.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["EfficientNetLite0"]

STAGES = (  # blocks, kernel, stride, widening, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """Convolve with TensorFlow's SAME padding: output size = input size / stride, rounded up."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k g v"]:
        """Pad, the odd pixel at the lower right, and convolve.

        Args:
            x: (b, c, h, w).

        Returns:
            (b, k, ceil(h / stride), ceil(w / stride)).
        """
        high = _same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
        wide = _same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
        return super().forward(F.pad(x, (*wide, *high)))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; add the input where the shapes agree.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kernel: side of the filters.
        stride: of the filters.
        widening: hidden channels per input channel; 1 leaves the first step out.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        hidden = inputs * widening
        self.widens = widening > 1
        self.adds = stride == 1 and inputs == outputs
        if self.widens:
            self._expand_conv = _conv(inputs, hidden, 1)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = _conv(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = _norm(hidden)
        self._project_conv = _conv(hidden, outputs, 1)
        self._bn2 = _norm(outputs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k g v"]:
        """Run the block.

        Args:
            x: (b, inputs, h, w).

        Returns:
            (b, outputs, ceil(h / stride), ceil(w / stride)).
        """
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with 1280 pooled features and 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, 32, 3, 2)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList()
        inputs = 32
        for count, kernel, stride, widening, outputs in STAGES:
            for index in range(count):
                step = stride if index == 0 else 1
                self._blocks.append(InvertedResidual(inputs, outputs, kernel, step, widening))
                inputs = outputs
        self._conv_head = _conv(320, 1280, 1)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def features(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
        """Return the last feature map, averaged over space.

        Args:
            x: bytes scaled as (x - 127) / 128, (b, 3, h, w).

        Returns:
            Features, (b, 1280).
        """
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        """Return the logits of the ImageNet classes.

        Args:
            x: bytes scaled as (x - 127) / 128, (b, 3, h, w).

        Returns:
            Logits, (b, 1000).
        """
        return self._fc(self.features(x))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> SameConv2d:
    return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
