"""Neural networks; they know nothing of processes and samplers."""

from trilemma.networks.discriminator import Discriminator, StridedDiscriminator
from trilemma.networks.mixed import MixedScore
from trilemma.networks.mlp import PointDiscriminator, PointGenerator
from trilemma.networks.ncsnpp import NCSNpp
from trilemma.networks.point_score import PointResNet, PointScore

__all__ = [
    "Discriminator",
    "MixedScore",
    "NCSNpp",
    "PointDiscriminator",
    "PointGenerator",
    "PointResNet",
    "PointScore",
    "StridedDiscriminator",
]
