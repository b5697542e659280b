import math
import sys

import pytest
import torch

from trilemma.errors import ConfigError, DataError, NumericalError
from trilemma.metrics import evaluate_table, from_json, to_json
from trilemma.metrics.tables import (
    correlation_errors,
    marginal_distances,
    nearest_distances,
    synthetic_to_real,
)


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_kolmogorov_smirnov_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.randn(57, 2), 0.3 + 1.5 * torch.randn(83, 2)
    a[:9], b[:9] = a[:9].round(), b[:9].round()  # ties
    found = marginal_distances(a, b, (0, 0))
    expected = [stats.ks_2samp(a[:, j].numpy(), b[:, j].numpy()).statistic for j in (0, 1)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_marginal_distances_by_hand():
    assert marginal_distances(column(0, 1), column(2, 3), (0,)).item() == 1.0
    assert marginal_distances(column(0, 1), column(1, 0), (0,)).item() == 0.0
    found = marginal_distances(column(0, 0, 1, 2), column(0, 1, 1, 1), (3,))
    torch.testing.assert_close(found, torch.tensor([0.5], dtype=torch.float64))


def test_correlation_errors_by_hand():
    line = torch.tensor([[0.0, 0], [1, 1], [2, 2]])
    flat = torch.tensor([[0.0, 5], [1, 5], [2, 5]])
    torch.testing.assert_close(correlation_errors(line, -line, (0, 0)), torch.zeros(1).double())
    turned = line * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(
        correlation_errors(line, turned, (0, 0)), torch.tensor([2.0]).double()
    )
    torch.testing.assert_close(correlation_errors(line, flat, (0, 0)), torch.tensor([1.0]).double())
    assert correlation_errors(line[:, :1], line[:, :1], (0,)).numel() == 0


def test_indicators_of_one_column_are_no_pair():
    rows = torch.tensor([[0.0, 0], [1, 1], [2, 2], [3, 0]])
    assert correlation_errors(rows, rows, (0, 3)).shape == (3,)
    assert correlation_errors(rows, rows, (4, 3)).shape == (12,)


def test_nearest_distances_count_a_category_as_one():
    x = torch.tensor([[0.0, 0], [3, 2]])
    reference = torch.tensor([[0.0, 1], [7, 2], [0, 1]])
    found = nearest_distances(x, reference, (0, 3))
    torch.testing.assert_close(found, torch.tensor([1.0, math.sqrt(10)]).double())


def classes(num, seed, shift=2.0):
    """Two normal clouds, 2 shift apart in the first number, and a number that says nothing."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (num,), generator=rng).float()
    x = torch.randn(num, 2, generator=rng)
    return torch.stack([x[:, 0] + shift * (2 * label - 1), x[:, 1], label], dim=1)


CATEGORIES = (0, 0, 2)


def by_name(records):
    return {record.name: record for record in records}


def test_fresh_rows_of_the_law_score_like_the_real_ones():
    records = evaluate_table(
        classes(900, 3), classes(300, 1), classes(200, 2), CATEGORIES, target=2, num_seeds=2
    )
    found = by_name(records)
    assert list(found) == [
        "marginal_distance",
        "correlation_error",
        "classifier_accuracy",
        "novelty",
    ]
    bayes = 0.9772
    accuracy = found["classifier_accuracy"]
    assert abs(accuracy.floor - bayes) < 0.04 and abs(accuracy.value - accuracy.floor) < 0.03
    assert not accuracy.lower_is_better and accuracy.num_fake == 900 and accuracy.num_real == 200
    marginal = found["marginal_distance"]
    assert marginal.lower_is_better and marginal.floor_num_fake == 300
    assert abs(marginal.value - marginal.floor) < 0.05 and "3 groups of 300" in marginal.note
    assert found["correlation_error"].value < 0.15
    assert 0.75 < found["novelty"].value < 1.3 and found["novelty"].floor == 1.0
    assert from_json(to_json(records)) == records


def test_each_fault_shows_in_its_own_score():
    train, test, fresh = classes(300, 1), classes(200, 2), classes(600, 3)
    shuffled = fresh.clone()
    shuffled[:, 2] = fresh[torch.randperm(600), 2]
    moved = fresh + torch.tensor([0.0, 1.5, 0.0])

    def scores(fake, target=2):
        return by_name(evaluate_table(fake, train, test, CATEGORIES, target=target, num_seeds=1))

    found = scores(shuffled)
    assert found["classifier_accuracy"].value < 0.7 and found["correlation_error"].value > 0.2
    assert found["marginal_distance"].value < 0.1
    found = scores(moved)
    assert found["marginal_distance"].value > 0.2 and "column 1" in found["marginal_distance"].note
    assert found["classifier_accuracy"].value > 0.9 and found["correlation_error"].value < 0.15
    found = scores(train, None)
    assert found["novelty"].value == 0.0 and found["marginal_distance"].error is None


def test_without_a_categorical_target_nothing_is_classified():
    train, test = classes(60, 1), classes(40, 2)
    for target in (None, 0):
        records = evaluate_table(train, train, test, CATEGORIES, target=target, split="train")
        assert "classifier_accuracy" not in by_name(records)
    marginal = by_name(records)["marginal_distance"]
    assert (marginal.split, marginal.num_real, marginal.floor_num_fake) == ("train", 60, 40)
    assert "1 groups of 40" in marginal.note
    single = evaluate_table(train[:, :1], train[:, :1], test[:, :1], (0,), names=("age",))
    assert "largest for age" in single[0].note and len(single) == 2


def test_what_does_not_fit_is_refused(monkeypatch):
    rows = classes(20, 1)
    with pytest.raises(DataError, match="3 columns, categories 2"):
        marginal_distances(rows, rows, (0, 0))
    with pytest.raises(DataError, match="codes outside 0 to 1"):
        evaluate_table(rows + 1, rows, rows, CATEGORIES)
    with pytest.raises(NumericalError, match="NaN"):
        evaluate_table(rows / 0, rows, rows, CATEGORIES)
    with pytest.raises(ConfigError, match="split='valid'"):
        evaluate_table(rows, rows, rows, CATEGORIES, split="valid")
    with pytest.raises(ConfigError, match="target=0 is not"):
        synthetic_to_real(rows, rows, CATEGORIES, 0, seeds=[0])
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ConfigError, match=r"pip install 'trilemma\[tables\]'"):
        synthetic_to_real(rows, rows, CATEGORIES, 2, seeds=[0])
