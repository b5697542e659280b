"""Advice: small reports whose best choice is plain, and reports with nothing to choose."""

import dataclasses
import math

import pytest

from trilemma.metrics import Record
from trilemma.report.advice import advice, basis
from trilemma.report.record import Cell, Model, Report, Speed


def record(value, name="fd_digits", error=None, floor=0.1, num=1000, **changes):
    fields = {
        "lower_is_better": name.startswith(("fd", "fid", "mode")),
        "num_fake": num,
        "num_real": num,
        "split": "train",
        "extractor": "digits",
        "weights_sha256": "a",
        "preprocessing": "grey",
        "error": error,
        "floor": floor,
    }
    return Record(name=name, value=value, **fields | changes)


def cell(model, nfe, *records, ms=None, **changes):
    fields = {
        "key": f"{model}/gddim-{nfe}",
        "model": model,
        "sampler": "gddim",
        "steps": nfe,
        "grid": "uniform",
        "is_default": False,
        "nfe": nfe,
        "records": records,
    }
    if ms is not None:
        timed = {"fastest": ms, "slowest": ms, "repeats": 3}
        sizes = ((1, 50.0), (64, ms))
        fields["speed"] = tuple(Speed(batch_size=b, ms_per_image=t, **timed) for b, t in sizes)
    return Cell(**fields | changes)


def report(*cells, likelihoods=None, families=None, errors=None, kind="images"):
    likelihoods, families, errors = likelihoods or {}, families or {}, errors or {}
    names = dict.fromkeys([*(cell.model for cell in cells), *likelihoods, *errors])
    models = tuple(
        Model(
            name=n,
            where=n,
            family=families.get(n, "ddpm"),
            likelihood=likelihoods.get(n, {}),
            error=errors.get(n, ""),
        )
        for n in names
    )
    return Report(
        models=models,
        cells=cells,
        data={"name": "mnist", "kind": kind, "class_names": ["zero", "one", "two"]},
        settings={},
        hardware={"name": "AMD EPYC"},
        date="2026-11-24",
        version="0",
        command="",
    )


SEVERAL = (
    cell("gan", 4, record(5.0, error=0.1), ms=1.0),
    cell("latent", 10, record(0.9, error=0.05), ms=6.0),
    cell("latent", 20, record(0.5, error=0.05), ms=12.0),
    cell("pixel", 1000, record(0.48, error=0.05), ms=950.0),
)


def test_of_several_models():
    few, _, best, fast = advice(report(*SEVERAL))
    assert few.cell == "latent/gddim-10"  # 0.9 is within twice 0.48
    assert "latent draws an image in 10 network calls, at a distance of 0.90 (0.80 to" in few.answer
    assert few.answer.endswith("If 4 calls are all you have: gan, at a distance of 5.0.")
    assert best.cell == "pixel/gddim-1000"
    assert best.answer.startswith("pixel with gddim in 1,000 calls is the best, at a distance of")
    assert "Two ways to draw that are good enough are level" in best.reason
    assert "latent with gddim in 20 calls takes the least time, 12 ms" in best.reason
    assert fast.cell == "latent/gddim-10"
    assert "draws an image in 6.0 ms on AMD EPYC, 64 at once" in fast.answer
    assert fast.answer.endswith("If 1.0 ms are all you have: gan, at a distance of 5.0.")


def test_best_is_no_other_that_is_level():
    """Of few samples intervals are wide: a far worse cell is level, and not what was asked for."""
    wide = cell("gan", 1, record(1.7, error=0.6)), cell("latent", 20, record(0.8, error=0.2))
    best = advice(report(*wide))[2]
    assert best.cell == "latent/gddim-20"  # from 0.41 to 1.19, and the GAN's from 0.52
    assert "gan" not in best.reason  # above 1.6, so not good enough
    near = advice(report(wide[1], cell("gan", 1, record(1.5, error=0.6))))[2]
    assert near.cell == "latent/gddim-20"
    assert "gan with gddim in 1 call needs fewest calls" in near.reason


def test_best_is_the_lowest_where_intervals_do_not_meet():
    sharp = [
        dataclasses.replace(c, records=(dataclasses.replace(c.records[0], error=0.001),))
        for c in SEVERAL
    ]
    best = advice(report(*sharp))[2]
    assert best.cell == "pixel/gddim-1000" and best.reason == "The best value of all."


def test_ties_go_by_calls_where_nothing_was_timed():
    cells = [dataclasses.replace(c, speed=()) for c in SEVERAL]
    _, _, best, fast = advice(report(*cells))
    assert best.cell == "pixel/gddim-1000"
    assert "latent with gddim in 20 calls needs fewest calls" in best.reason
    assert fast.cell == "" and "Nothing was timed" in fast.answer


def test_a_missing_class_is_not_acceptable():
    real = (100, 100, 100)
    poor = cell("a", 4, record(0.5), class_counts=(150, 2, 148), real_class_counts=real, ms=1.0)
    whole = cell("b", 50, record(0.6), class_counts=real, real_class_counts=real, ms=9.0)
    few, _, best, fast = advice(report(poor, whole))
    assert few.cell == fast.cell == "b/gddim-50"
    assert "4 calls are all you have: a, at a distance of 0.50, but it hardly ever draws one" in (
        few.answer
    )
    assert best.cell == "b/gddim-50"
    assert "The best of all is a with gddim in 4 calls, at a distance of 0.50, but it hardly" in (
        best.reason
    )
    alone = advice(report(poor))
    for i in (0, 2, 3):
        assert alone[i].cell == "a/gddim-4" and "Beware: it hardly ever draws one" in (
            alone[i].reason
        )
        assert alone[i].answer.startswith("No model is good enough. The least bad is a")


@pytest.mark.parametrize("name", ["coverage", "recall"])
def test_little_variety_is_not_good_enough(name):
    def of(value, floor=0.9):  # two thirds of 0.9 are 0.6
        return cell("a", 4, record(0.5), record(value, name, floor=floor), ms=1.0)

    other = cell("b", 50, record(0.6), record(0.88, name, floor=0.9), ms=9.0)
    few, _, best, fast = advice(report(of(0.59), other))
    assert few.cell == best.cell == fast.cell == "b/gddim-50"
    for told in (few.answer, best.reason, fast.answer):
        assert f"but {name} is 0.59 where real data score 0.90" in told
    fine = advice(report(of(0.61), other))
    assert [fine[i].cell for i in (0, 2, 3)] == ["a/gddim-4"] * 3
    assert name not in fine[0].answer + fine[0].reason
    alone = advice(report(of(0.5), dataclasses.replace(other, records=of(0.4).records)))
    assert alone[0].cell == "a/gddim-4" and "No model is good enough" in alone[0].answer
    assert f"Beware: much of the data is missing among its samples, for {name} is 0.50" in (
        alone[0].reason
    )


def test_signs_of_copying_are_not_good_enough():
    found = {"share_copied": 0.3, "expected_share": 0.01, "is_flagged": True}
    copies = cell("a", 1, record(0.11), ms=1.0, memorisation=found)
    honest = cell("b", 50, record(0.9), ms=9.0, memorisation=found | {"is_flagged": False})
    made = report(copies, honest)
    few, _, best, fast = advice(made)
    assert few.cell == best.cell == fast.cell == "b/gddim-50"  # 0.9 is above twice 0.11
    for told in (few.answer, best.reason, fast.answer):
        assert "Beware: signs of copying, for 30.0 % of its samples" in told
    about = basis(made).explanation
    assert "at most 1.80, twice the lowest without a flaw" in about and "signs of copying" in about
    alone = advice(report(copies))
    for i in (0, 2, 3):
        assert alone[i].cell == "a/gddim-1" and "Beware: signs of copying" in alone[i].reason
        assert "No model is good enough" in alone[i].answer
    bits = {"kind": "upper bound on the NLL", "bits_per_dim": 1.2, "nats": 600.0}
    assert "signs of copying" in advice(report(copies, likelihoods={"a": bits}))[1].reason


def test_twice_the_best_counts_from_what_real_data_score():
    cells = cell("a", 50, record(0.01, floor=0.3)), cell("b", 4, record(0.55, floor=0.3))
    assert advice(report(*cells))[0].cell == "b/gddim-4"


def test_points_go_by_the_share_near_a_mode():
    def points(model, nfe, share, modes):
        counts = {"floor": 25.0, "num": 2500}
        return cell(
            model,
            nfe,
            record(share, "high_quality", num=2500),
            record(float(modes), "num_modes", **counts),
        )

    cells = points("gan", 1, 0.955, 15), points("ddgan", 4, 0.97, 25), points("ddpm", 50, 0.7, 25)
    few, _, best, _ = advice(report(*cells, kind="points"))
    assert few.cell == best.cell == "ddgan/gddim-4"
    assert "15 of 25 modes" in few.answer and "97.0 % (96.3 % to 97.7 %)" in few.answer


def test_few_samples_cannot_show_all_modes():
    """1000 perfect samples of 1000 modes hit 632 of them: not a fault of the model."""
    fair = cell("a", 4, record(0.6, "mode_kl"), record(640.0, "num_modes", floor=1000.0))
    assert "modes" not in advice(report(fair))[0].reason
    poor = cell("a", 4, record(0.6, "mode_kl"), record(600.0, "num_modes", floor=1000.0))
    assert "600 of 1000 modes" in advice(report(poor))[0].reason


def test_likelihoods():
    bits = {"kind": "NLL by the probability flow", "bits_per_dim": 2.08, "nats": -2676.0}
    bound = {"kind": "upper bound on the NLL", "bits_per_dim": 1.21, "bits_per_dim_interval": 0.03}
    families = {"gan": "ddgan", "latent": "lsgm"}
    likelihoods = {"pixel": bits, "latent": bound}
    found = advice(report(*SEVERAL, likelihoods=likelihoods, families=families))[1]
    assert (
        found.answer.startswith("latent gives at most 1.210 ± 0.030 bits")
        and found.cell == "latent/gddim-10"
    )
    assert found.answer.endswith("The others: pixel 2.08.")
    assert "upper bound" in found.reason and "The others are estimates" in found.reason
    assert "gan: a GAN has no likelihood" in found.reason
    lost = advice(report(*SEVERAL, likelihoods={"pixel": {"bits_per_dim": math.nan}}))[1]
    assert lost.answer == "gan, latent and pixel." and lost.cell == ""
    assert "--likelihood" in lost.reason
    none = advice(report(SEVERAL[0], families={"gan": "ddgan"}))[1]
    assert none.answer == "None of these." and none.cell == ""


def test_models_that_have_a_likelihood_are_named_without_one():
    kinds = {"gan": "ddgan", "latent": "lsgm", "pixel": "ddpm"}
    notes = {name: {"note": "not measured"} for name in kinds}
    found = advice(report(*SEVERAL, families=kinds, likelihoods=notes))[1]
    assert found.answer == "latent and pixel." and found.cell == ""  # a headline on the page
    assert found.reason == (
        "They have one, by family: latent diffusion and pixel diffusion. Values were not measured; "
        "--likelihood N measures on N held-out data. gan: a GAN has no likelihood."
    )
    note = {"note": "no encoder in this file"}
    refused = advice(report(SEVERAL[1], families=kinds, likelihoods={"latent": note}))[1]
    assert refused.answer == "None of these." and "no encoder in this file" in refused.reason


@pytest.mark.parametrize(
    ("family", "has_one"),
    [
        ("lsgm", True),
        ("cld", True),
        ("ddpm", True),
        ("edm", True),
        ("vae", True),
        ("ddgan", False),
        ("gan", False),
        ("samples", False),
    ],
)
def test_which_families_have_a_likelihood(family, has_one):
    found = advice(report(cell("a", 4, record(0.5)), families={"a": family}))[1]
    assert found.answer == ("a." if has_one else "None of these.")
    assert ("It has one, by family" in found.reason) == has_one


@pytest.mark.parametrize(
    ("error", "num", "told"),
    [
        (0.02, 1000, ""),  # to 0.94; the limit is 0.96
        (
            0.05,
            1000,
            "1,000 samples do not tell whether latent with gddim in 10 calls is good enough; take "
            "-n 4000 or more.",
        ),
        (
            0.05,
            300,
            "300 samples do not tell whether latent with gddim in 10 calls is good enough; take "
            "-n 2000 or more.",
        ),
    ],
)
def test_few_samples_do_not_tell_what_is_good_enough(error, num, told):
    cells = (
        cell("latent", 10, record(0.9, error=error, num=num), ms=6.0),
        cell("pixel", 1000, record(0.48, error=0.05, num=num), ms=950.0),
    )
    few, _, best, fast = advice(report(*cells))
    assert few.cell == fast.cell == "latent/gddim-10"
    assert few.reason == f"The fewest calls of all that are good enough. {told}".strip()
    assert fast.reason == f"The least time of all that are good enough. {told}".strip()
    assert "do not tell" not in best.reason


def test_few_samples_do_not_tell_what_is_not_good_enough():
    """A cheaper cell above the limit whose interval reaches below it, and one with a flaw."""
    flawed = cell("c", 1, record(1.05, error=0.1), record(0.1, "recall", floor=0.9))
    cells = cell("a", 50, record(0.5, error=0.01)), cell("b", 4, record(1.1, error=0.1)), flawed
    few = advice(report(*cells))[0]
    assert few.cell == "a/gddim-50"
    assert "1,000 samples do not tell whether b with gddim in 4 calls is good enough" in few.reason
    sharp = dataclasses.replace(cells[1], records=(record(1.1, error=0.01),))
    assert "do not tell" not in advice(report(cells[0], sharp, flawed))[0].reason
    assert "do not tell" not in advice(report(cell("a", 4, record(0.5, error=0.4))))[0].reason


def test_other_protocols_are_left_out():
    other = cell("b", 1, record(0.01, split="test"))
    made = report(SEVERAL[1], SEVERAL[2], other)
    few, _, best, _ = advice(made)
    left_out = basis(made).left_out
    assert best.cell == "latent/gddim-20" and "b with gddim in 1 call" in left_out
    assert few.cell == "latent/gddim-10"


def test_samples_from_a_file_are_no_model():
    drawn = cell("other", 0, record(0.1), sampler="file", key="other/file", steps=None)
    made = report(drawn, *SEVERAL, families={"other": "samples"})
    few, likelihoods, best, _ = advice(made)
    assert few.cell == "latent/gddim-10" and best.cell == "pixel/gddim-1000"
    assert basis(made).left_out.endswith(": other.") and "no model" in likelihoods.reason


def test_every_lower_price_has_its_best():
    """With too few calls for a good one: the best of those that are cheaper, and so on."""
    cells = [
        cell("a", 50, record(0.5)),
        cell("b", 8, record(3.0)),
        cell("c", 8, record(2.0)),
        cell("d", 6, record(4.0)),
        cell("e", 4, record(3.5)),
        cell("f", 2, record(7.0)),
        cell("g", 1, record(9.0)),
    ]
    told = advice(report(*cells))[0].answer.partition("good enough. ")[2]
    assert told == (
        "If 8 calls are all you have: c, at a distance of 2.0. "
        "With 4 calls: e, at a distance of 3.5. With 2 calls: f, at a distance of 7.0."
    )


def test_what_the_answers_rest_on_is_said_once():
    about = basis(report(*SEVERAL, cell("pixel", 7, error="out of memory")))
    assert "real images score 0.10, not 0" in about.explanation
    assert "a distance of at most 0.960, twice the lowest" in about.explanation  # 0.48
    assert about.left_out.endswith("can be compared: pixel with gddim in 7 calls.")
    at_floor = basis(report(cell("a", 4, record(0.2, floor=0.3)), cell("b", 4, record(1.0))))
    assert "at most 0.600, twice what real images score" in at_floor.explanation
    nothing = basis(report())
    assert nothing.explanation == nothing.left_out == ""


def test_one_model():
    found = advice(report(SEVERAL[1]))
    assert [entry.cell for entry in found] == ["latent/gddim-10", "", *["latent/gddim-10"] * 2]


def test_all_failed():
    broken = cell("a", 4, error="out of memory")
    for made in (report(broken, errors={"b": "no such file"}), report()):
        found = advice(made)
        assert len(found) == 4 and all(entry.cell == "" and entry.reason for entry in found)
    assert "a with gddim in 4 calls: out of memory" in advice(report(broken))[0].reason
