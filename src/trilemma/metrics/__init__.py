"""Metrics: Frechet and kernel distances, precision and recall, modes; always with their floors."""

from trilemma.metrics.base import Record, check_comparable, from_json, to_json
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
from trilemma.metrics.kernel import KernelDistance, kid, mmd
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
    "KernelDistance",
    "ManifoldScores",
    "MnistReference",
    "ModeStatistics",
    "Record",
    "WeightsFound",
    "check_comparable",
    "classify",
    "evaluate",
    "evaluate_features",
    "evaluate_table",
    "extractor_for",
    "extractor_named",
    "find_weights",
    "frechet_distance",
    "frechet_error",
    "from_json",
    "gaussian_stats",
    "grid_modes",
    "kid",
    "manifold_scores",
    "metric_key",
    "mmd",
    "mnist_reference",
    "mode_statistics",
    "sliced_wasserstein",
    "stacked_distribution",
    "stacked_numbers",
    "to_json",
]
