"""Metrics: distances, precision and recall, modes, copies; always with floors and intervals."""

from trilemma.metrics.base import Record, check_comparable, from_json, to_json
from trilemma.metrics.bootstrap import (
    Interval,
    divergence_interval,
    frechet_interval,
    wilson,
)
from trilemma.metrics.cache import cache_folder, cached_features
from trilemma.metrics.coverage import (
    GridModes,
    ModeStatistics,
    grid_modes,
    mode_statistics,
    stacked_numbers,
)
from trilemma.metrics.digits import (
    DigitNet,
    MnistReference,
    classify,
    mnist_reference,
    stacked_distribution,
)
from trilemma.metrics.features import (
    EXTRACTORS,
    DigitFeatures,
    EfficientNetLite0Features,
    FeatureExtractor,
    IdentityFeatures,
    InceptionFeatures,
    WeightsFound,
    extractor_for,
    extractor_named,
    find_weights,
    metric_key,
)
from trilemma.metrics.frechet import (
    GaussianStats,
    frechet_distance,
    frechet_error,
    gaussian_stats,
)
from trilemma.metrics.inception_score import (
    InceptionScore,
    inception_score,
    inception_score_interval,
)
from trilemma.metrics.kernel import KernelDistance, kid, mmd
from trilemma.metrics.memorisation import Memorisation, memorisation
from trilemma.metrics.nearness import Nearness, nearest_neighbours, nearness
from trilemma.metrics.precision_recall import ManifoldScores, manifold_scores
from trilemma.metrics.report import evaluate, evaluate_features
from trilemma.metrics.tables import evaluate_table
from trilemma.metrics.wasserstein import sliced_wasserstein

__all__ = [
    "EXTRACTORS",
    "DigitFeatures",
    "DigitNet",
    "EfficientNetLite0Features",
    "FeatureExtractor",
    "GaussianStats",
    "GridModes",
    "IdentityFeatures",
    "InceptionFeatures",
    "InceptionScore",
    "Interval",
    "KernelDistance",
    "ManifoldScores",
    "Memorisation",
    "MnistReference",
    "ModeStatistics",
    "Nearness",
    "Record",
    "WeightsFound",
    "cache_folder",
    "cached_features",
    "check_comparable",
    "classify",
    "divergence_interval",
    "evaluate",
    "evaluate_features",
    "evaluate_table",
    "extractor_for",
    "extractor_named",
    "find_weights",
    "frechet_distance",
    "frechet_error",
    "frechet_interval",
    "from_json",
    "gaussian_stats",
    "grid_modes",
    "inception_score",
    "inception_score_interval",
    "kid",
    "manifold_scores",
    "memorisation",
    "metric_key",
    "mmd",
    "mnist_reference",
    "mode_statistics",
    "nearest_neighbours",
    "nearness",
    "sliced_wasserstein",
    "stacked_distribution",
    "stacked_numbers",
    "to_json",
    "wilson",
]
