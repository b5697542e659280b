"""Records and the report: counts, floors, names, JSON, refusals."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.linalg import sqrtm

from trilemma.commands.judge import _record_table
from trilemma.errors import ConfigError, DataError
from trilemma.metrics import (
    DigitFeatures,
    IdentityFeatures,
    Record,
    check_comparable,
    evaluate,
    evaluate_features,
    frechet_distance,
    from_json,
    gaussian_stats,
    mnist_reference,
    to_json,
)

NAMES = ["fd_identity", "kd_identity", "precision", "recall", "density", "coverage"]


def draw(n, d=4, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def by_name(records):
    return {record.name: record for record in records}


def report(fake, real, **options):
    return by_name(evaluate_features(fake, real, IdentityFeatures(), split="test", **options))


def by_scipy(x, y):
    """Frechet distance of features, or of features and a mean with a covariance."""
    (m, c), (n, d) = (s if isinstance(s, tuple) else (s.mean(0), np.cov(s.T)) for s in (x, y))
    return float(np.square(m - n).sum() + np.trace(c + d - 2 * np.real(sqrtm(c @ d))))


def unbiased_mmd(x, y):
    """Cubic kernel, the diagonals left out."""
    xx, xy, yy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (x, y), (y, y)))
    within = ((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy))
    return float(sum(within) - 2 * xy.mean())


def over_subsets(x, y, seed):
    """Mean over 20 pairs of random subsets, half as large as the smaller set."""
    rng, size, values = torch.Generator().manual_seed(seed), min(len(x), len(y)) // 2, []
    for _ in range(20):
        p, q = (torch.randperm(len(s), generator=rng).tolist()[:size] for s in (y, x))
        values.append(unbiased_mmd(x[q], y[p]))
    return np.mean(values)


def dealt(pool, first, second, seed):
    """Five deals of all real samples into two sets that share none."""
    rng = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(pool), generator=rng).tolist() for _ in range(5)]
    x = pool.double().numpy()
    return [(x[o[:first]], x[o[first : first + second]]) for o in orders]


def test_records_state_their_protocol():
    records = report(draw(50), draw(120, seed=1))
    assert list(records) == NAMES
    distance = records["fd_identity"]
    assert (distance.num_fake, distance.num_real, distance.split) == (50, 120, "test")
    assert (records["recall"].num_fake, records["recall"].num_real) == (50, 50)
    assert [r.lower_is_better for r in records.values()] == [True, True, False, False, False, False]
    assert "no weights" not in distance.note
    assert distance.error is not None


def test_value_is_the_distance_and_floor_that_of_real_sets():
    fake, real, extra = draw(50) + 1, draw(120, seed=1), draw(80, seed=2)
    record = report(fake, real, floor_real=extra)["fd_identity"]
    truth = frechet_distance(gaussian_stats(fake), gaussian_stats(real))
    assert record.value == pytest.approx(truth)
    assert (record.floor_num_fake, record.floor_num_real) == (50, 120)
    assert record.floor < 0.2 * record.value


def test_floor_by_split_is_disjoint_and_states_its_sizes():
    real = draw(100, seed=1)
    record = report(draw(30), real)["fd_identity"]
    assert (record.floor_num_fake, record.floor_num_real) == (30, 70)
    many = report(draw(300), real)["fd_identity"]
    assert (many.floor_num_fake, many.floor_num_real) == (50, 50)
    assert record.floor > 0  # overlapping halves would push it towards zero


@pytest.mark.parametrize(("num", "extra"), [(50, 80), (100, 80), (50, None), (300, None)])
def test_floors_of_distances_are_means_over_splits(num, extra):
    real, rest = draw(120, seed=1), None if extra is None else draw(extra, seed=2)
    sizes = (min(num, extra), 120) if extra else (min(num, 60), 120 - min(num, 60))
    pool = torch.cat([real, rest]) if extra else real
    found = report(draw(num), real, floor_real=rest, seed=3)
    splits = dealt(pool, *sizes, seed=3)
    distances = [by_scipy(x, y) for x, y in splits]
    record = found["fd_identity"]
    assert (record.floor_num_fake, record.floor_num_real) == sizes
    assert record.floor == pytest.approx(np.mean(distances), rel=1e-6)
    assert record.floor_error == pytest.approx(np.std(distances, ddof=1), rel=1e-6)
    assert f"floor: mean over 5 splits of {len(pool)} real samples, floor_error" in record.note
    kernel, near = found["kd_identity"], [over_subsets(x, y, seed=3) for x, y in splits]
    assert kernel.floor == pytest.approx(np.mean(near), rel=1e-6)
    assert kernel.floor_error == pytest.approx(np.std(near, ddof=1), rel=1e-6)
    assert "floor: mean over 5 splits" in kernel.note
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name].floor_error is None and "floor: mean" not in found[name].note


def test_a_mean_floor_strays_less_than_one_split():
    single, mean, error = [], [], []
    for seed in range(0, 40, 2):
        real, rest = draw(60, seed=seed), draw(60, seed=seed + 1)
        # another seed than the data's, whose random numbers would decide who goes where
        record = report(real, real, floor_real=rest, seed=1000 + seed)["fd_identity"]
        single.append(by_scipy(real.double().numpy(), rest.double().numpy()))
        mean.append(record.floor)
        error.append(record.floor_error)
    assert np.mean(mean) == pytest.approx(np.mean(single), rel=0.15)
    assert np.std(mean) < 0.7 * np.std(single)
    # the standard deviation between splits is that of a single one
    assert np.sqrt(np.mean(np.square(error))) == pytest.approx(np.std(single), rel=0.3)


def test_the_table_prints_how_far_a_floor_strays():
    record = report(draw(30), draw(40, seed=1))["fd_identity"]
    known = Record(**{**record.to_dict(), "floor": 1.0734, "floor_error": 0.1234})
    plain = Record(**{**known.to_dict(), "floor_error": None})
    for shown, expected in ((known, "1.073 ± 0.12"), (plain, "1.073")):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(_record_table([shown]))
        row = next(line for line in console.export_text().splitlines() if "fd_identity" in line)
        assert row.split("]")[1].split("lower")[0].strip() == expected


def test_a_perfect_sampler_scores_its_floor():
    gaps = []
    for seed in range(0, 60, 3):
        records = report(
            draw(60, seed=seed), draw(60, seed=seed + 1), floor_real=draw(60, seed=seed + 2)
        )
        gaps.append(records["fd_identity"].value / records["fd_identity"].floor)
    assert sum(map(math.log, gaps)) / len(gaps) == pytest.approx(0.0, abs=0.25)


def test_too_few_samples_for_the_covariance_are_noted():
    record = report(draw(20, 30), draw(40, 30, 1))["fd_identity"]
    assert "rank-deficient covariance: 20 samples for 30 features" in record.note
    assert record.error is None
    assert "rank" not in report(draw(40), draw(40, seed=1))["fd_identity"].note


def test_precision_without_coverage_is_marked():
    real = draw(200)
    copies, fair = report(real[:4].repeat(50, 1), real), report(draw(200, seed=1), real)
    assert copies["precision"].value == 1.0
    for name, marked in (("precision", True), ("density", True), ("recall", False)):
        assert ("do not read it as quality" in copies[name].note) == marked
        assert "do not read it as quality" not in fair[name].note


def test_same_seed_same_report():
    fake, real = draw(60), draw(90, seed=1)
    assert report(fake, real) == report(fake, real)
    assert report(fake, real, seed=1) != report(fake, real)


def test_digits_end_to_end():
    reference = mnist_reference()
    real, fake = reference.images[::2], reference.images[1::2]
    good = by_name(evaluate(fake, real, DigitFeatures(), split="test"))
    bad = by_name(evaluate(fake.roll(3, 3), real, DigitFeatures(), split="test"))
    assert bad["fd_digits"].value > good["fd_digits"].value + 3 * bad["fd_digits"].error
    assert abs(good["kd_digits"].value) < 3 * good["kd_digits"].error
    assert bad["precision"].value < good["precision"].value
    assert good["fd_digits"].weights_sha256 == DigitFeatures().weights_sha256


def test_a_large_reference_serves_the_frechet_distance_alone():
    fake, real, many = draw(50) + 1, draw(80, seed=1), draw(4000, seed=2)
    plain, given = report(fake, real), report(fake, real, reference=gaussian_stats(many))
    distance = given.pop("fd_identity")
    truth = frechet_distance(gaussian_stats(fake), gaussian_stats(many))
    assert distance.value == pytest.approx(truth)
    assert (distance.num_fake, distance.num_real) == (50, 4000)
    assert "given statistics of 4000 real images" in distance.note
    assert distance.low < distance.value < distance.high
    # the floor: as many reals as fakes against the same reference
    assert (distance.floor_num_fake, distance.floor_num_real) == (50, 4000)
    assert distance.floor < 0.5 * plain["fd_identity"].floor
    assert all(given[name] == plain[name] for name in given)
    with pytest.raises(DataError, match="3 features"):
        report(fake, real, reference=gaussian_stats(draw(50, 3)))


def test_the_floor_of_a_reference_takes_all_real_images():
    real, extra = draw(80, seed=1), draw(60, seed=2)
    reference = gaussian_stats(draw(4000, seed=3))
    shared = {"reference": reference, "floor_real": extra}
    few, many = (report(draw(n), real, **shared)["fd_identity"] for n in (30, 400))
    assert (few.floor_num_fake, many.floor_num_fake) == (30, 140)
    whole = frechet_distance(gaussian_stats(torch.cat([real, extra])), reference)
    assert many.floor == pytest.approx(whole)
    assert many.floor_error is None and "floor: of all 140 real samples" in many.note
    draws = dealt(torch.cat([real, extra]), 30, 0, seed=0)
    truths = [by_scipy(x, (reference.mean.numpy(), reference.cov.numpy())) for x, _ in draws]
    assert few.floor == pytest.approx(np.mean(truths), rel=1e-6)
    assert few.floor_error == pytest.approx(np.std(truths, ddof=1), rel=1e-6)
    assert "mean over 5 draws of 30 out of 140 real samples" in few.note


def test_a_dropped_class_lowers_recall_and_coverage_but_not_precision():
    reference = mnist_reference()
    real, fair = reference.images[::2], reference.images[1::2]
    kept = (reference.labels[1::2] != 0) & (reference.labels[1::2] != 1)
    collapsed = fair[kept]
    whole, part = (
        by_name(evaluate(fake, real, DigitFeatures(), split="test", floor_real=real))
        for fake in (fair[: len(collapsed)], collapsed)
    )
    for name in ("recall", "coverage"):
        assert part[name].value < whole[name].value - 0.08, name
    assert part["precision"].value > whole["precision"].value - 0.05
    assert part["is_digits"].value < whole["is_digits"].value - 1
    assert part["fd_digits"].value > whole["fd_digits"].value


def test_older_records_without_an_interval_are_read():
    record = report(draw(30), draw(40, seed=1))["fd_identity"]
    fields = record.to_dict()
    assert fields["floor_error"] == record.floor_error > 0
    del fields["low"], fields["high"], fields["floor_error"]
    older = Record.from_dict(fields)
    assert (older.low, older.high, older.floor_error) == (None, None, None)
    assert (older.value, older.floor) == (record.value, record.floor)
    check_comparable(older, record)


def test_json_round_trip():
    records = evaluate_features(draw(30), draw(40, seed=1), IdentityFeatures(), split="val")
    text = to_json(records)
    assert from_json(text) == records
    assert json.loads(text)[0]["split"] == "val"


def test_json_has_no_nan():
    record = next(iter(report(draw(30), draw(40, seed=1)).values()))
    bad = Record(**{**record.to_dict(), "value": math.inf, "error": math.nan})
    assert json.loads(to_json([bad]), parse_constant=pytest.fail)[0]["value"] is None
    assert math.isnan(from_json(to_json([bad]))[0].value)


def test_unequal_protocols_are_not_compared():
    records = report(draw(30), draw(40, seed=1))
    check_comparable(records["recall"], records["recall"])
    other = Record(**{**records["recall"].to_dict(), "num_fake": 29})
    with pytest.raises(ConfigError, match="num_fake is 30 and 29"):
        check_comparable(records["recall"], other)
    with pytest.raises(ConfigError, match="name is 'recall' and 'density'"):
        check_comparable(records["recall"], records["density"])


def test_errors():
    with pytest.raises(ConfigError, match="split is empty"):
        evaluate_features(draw(30), draw(30), IdentityFeatures(), split="")
    with pytest.raises(DataError, match="too few to split"):
        report(draw(30), draw(20))
    with pytest.raises(DataError, match="at least 12"):
        report(draw(5), draw(30))
    with pytest.raises(DataError, match="wide"):
        report(draw(30, 3), draw(30, 4))
    with pytest.raises(DataError, match="not valid JSON"):
        from_json("{")
    with pytest.raises(DataError, match="list of objects"):
        from_json("{}")
    with pytest.raises(DataError, match="unknown fields colour"):
        from_json('[{"colour": 1}]')
    with pytest.raises(DataError, match="incomplete"):
        from_json('[{"name": "fid"}]')
