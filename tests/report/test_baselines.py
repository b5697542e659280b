"""Published rows: for the data that they belong to, under the names of our records."""

import pytest

from trilemma.report.baselines import baselines
from trilemma.report.record import Report


def report(**data):
    return Report(
        models=(),
        cells=(),
        data=data,
        settings={},
        hardware={},
        date="2026-11-24",
        version="0",
        command="",
    )


def test_stacked_digits():
    rows = baselines(report(kind="stacked", name="stacked-mnist"))
    values = {row.name: dict(row.values) for row in rows}
    assert values["DDGAN, 4 calls"] == {"num_modes": 1000, "mode_kl": 0.071}
    assert values["StyleGAN2"] == {"num_modes": 940, "mode_kl": 0.424}
    divergences = [row.values["mode_kl"] for row in rows]
    assert divergences == sorted(divergences)
    assert all("Xiao et al., 2022" in row.source for row in rows)


def test_of_25_gaussians_there_is_a_picture_only():
    rows = baselines(report(kind="points", name="grid25"))
    assert rows and all(not row.values and "picture only" in row.source for row in rows)


@pytest.mark.parametrize("data", [{"kind": "images", "name": "mnist"}, {"kind": "points"}, {}])
def test_other_data_have_no_rows(data):
    assert baselines(report(**data)) == ()
