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
    assert few.answer.startswith(
        "latent with gddim in 10 calls needs the fewest, at a distance of 0.90 (0.80 to"
    )
    assert few.answer.endswith("If 4 calls are all you have: gan with gddim, at a distance of 5.0.")
    assert best.cell == "pixel/gddim-1000"
    assert best.answer.startswith("pixel with gddim in 1,000 calls has the best quality, at a dist")
    assert best.reason == (
        "The best quality of all. Level with it, for their 95 % intervals meet: latent with gddim "
        "in 20 calls. Of these two, latent with gddim in 20 calls needs the least time, 12 ms, at "
        "a distance of 0.50."
    )
    assert fast.cell == "latent/gddim-10"
    assert fast.answer.startswith(
        "latent with gddim in 10 calls draws an image in 6.0 ms on AMD EPYC, 64 at once, at"
    )
    assert fast.answer.endswith(
        "If 1.0 ms are all you have: gan with gddim in 4 calls, at a distance of 5.0."
    )


def test_best_is_no_other_that_is_level():
    """Of few samples intervals are wide: a far worse cell is level, and not what was asked for."""
    wide = cell("gan", 1, record(1.7, error=0.6)), cell("latent", 20, record(0.8, error=0.2))
    best = advice(report(*wide))[2]
    assert best.cell == "latent/gddim-20"  # from 0.41 to 1.19, and the GAN's from 0.52
    assert "gan" not in best.reason  # above 1.6, so not good enough
    near = advice(report(wide[1], cell("gan", 1, record(1.5, error=0.6))))[2]
    assert near.cell == "latent/gddim-20"
    assert "gan with gddim in 1 call needs the fewest calls" in near.reason


def test_best_is_the_lowest_where_intervals_do_not_meet():
    sharp = [
        dataclasses.replace(c, records=(dataclasses.replace(c.records[0], error=0.001),))
        for c in SEVERAL
    ]
    best = advice(report(*sharp))[2]
    assert best.cell == "pixel/gddim-1000" and best.reason == "The best quality of all."
    assert best.answer.startswith("pixel with gddim in 1,000 calls is the best, at a distance of")


def test_ties_go_by_calls_where_nothing_was_timed():
    cells = [dataclasses.replace(c, speed=()) for c in SEVERAL]
    _, _, best, fast = advice(report(*cells))
    assert best.cell == "pixel/gddim-1000"
    assert "latent with gddim in 20 calls needs the fewest calls" in best.reason
    assert fast.cell == "" and "Nothing was timed" in fast.answer


def test_a_missing_class_is_not_acceptable():
    real = (100, 100, 100)
    poor = cell("a", 4, record(0.5), class_counts=(150, 2, 148), real_class_counts=real, ms=1.0)
    whole = cell("b", 50, record(0.6), class_counts=real, real_class_counts=real, ms=9.0)
    few, _, best, fast = advice(report(poor, whole))
    assert few.cell == fast.cell == "b/gddim-50"
    assert (
        "4 calls are all you have: a with gddim, at a distance of 0.50, but it hardly ever draws "
        "one"
    ) in few.answer
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


def test_a_single_model_has_no_other_model_beside_it():
    """Files of samples take no part, but a reader sees their rows."""
    one, file = cell("a", 4, record(0.5), ms=1.0), cell("b", 0, record(0.3), sampler="file")
    for i in (0, 2, 3):
        assert advice(report(one))[i].reason == "There is no other to compare it with."
        assert advice(report(one, file, families={"b": "samples"}))[i].reason == (
            "There is no other model to compare it with; files of samples take no part."
        )


def test_exact_copies_are_named():
    found = {"share_copied": 0.016, "is_flagged": True, "num_near": 10, "num_exact": 10}
    told = advice(report(cell("a", 1, record(0.11), ms=1.0, memorisation=found)))[0].reason
    assert "signs of copying, for 1.6 % of its samples come as close" in told
    assert "and 10 are training images byte for byte" in told


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
    assert "upper bound" in found.reason and "Figures without it are estimates" in found.reason
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
        "If 8 calls are all you have: c with gddim, at a distance of 2.0. "
        "With 4 calls: e with gddim, at a distance of 3.5. "
        "With 2 calls: f with gddim, at a distance of 7.0."
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


def timed(batch, ms):
    return Speed(batch_size=batch, ms_per_image=ms, fastest=ms, slowest=ms, repeats=3)


def test_two_ways_of_a_model_in_as_many_calls_are_told_apart():
    """The default is another: who takes the advice must know the sampler."""
    sscs, euler = (
        cell("cld", 20, record(value), ms=ms, key=f"cld/{name}-20", sampler=name)
        for name, value, ms in (("sscs", 0.9, 5.0), ("euler_maruyama", 1.0, 4.0))
    )
    own = cell("cld", 50, record(0.8), ms=50.0, is_default=True)
    cheap = cell("cld", 4, record(9.0), ms=1.0, key="cld/sscs-4", sampler="sscs")
    few, _, _, fast = advice(report(sscs, euler, own, cheap))
    assert few.cell == "cld/sscs-20" and few.answer.startswith("cld with sscs in 20 calls needs")
    assert "If 4 calls are all you have: cld with sscs, at" in few.answer
    assert fast.cell == "cld/euler_maruyama-20"
    assert fast.answer.startswith("cld with euler-maruyama in 20 calls draws an image in 4.0 ms")
    assert "If 1.0 ms are all you have: cld with sscs in 4 calls, at" in fast.answer
    poor = [dataclasses.replace(c, records=(record(v),)) for c, v in ((sscs, 2.0), (euler, 1.0))]
    flaw = [dataclasses.replace(c, memorisation={"is_flagged": True}) for c in poor]
    for i in (0, 3):
        assert "The least bad is cld with euler-maruyama in 20 calls" in (
            advice(report(*flaw))[i].answer
        )


def test_files_of_samples_alone_have_no_model_to_recommend():
    one, two = (
        cell(name, 0, record(0.3), sampler="file", key=f"{name}/file", steps=None) for name in "ab"
    )
    kinds = {"families": {"a": "samples", "b": "samples"}}
    for i in (0, 2, 3):
        found = advice(report(one, two, **kinds))[i]
        assert found.cell == "" and found.reason == "The table compares them."
        assert found.answer == (
            "Only files of samples were judged, so there is no model to recommend."
        )
    beside = advice(report(one, errors={"m": "no such file"}, **kinds))
    assert beside[0].answer.startswith("Only files of samples were judged")
    assert beside[0].reason == "The table has its figures. m: no such file."
    assert "Nothing" not in beside[2].reason


def test_models_without_a_figure_of_quality_were_drawn_all_the_same():
    found = advice(report(cell("a", 4, record(math.nan), record(0.9, "coverage"))))
    for i in (0, 2, 3):
        assert found[i].answer == "There are no figures of quality to go by."
        assert found[i].reason == "The table has the others."


def test_the_best_of_equal_values_names_the_others():
    """Three of one value: the one that is chosen is the cheapest itself, and not alone."""
    cells = [
        cell(name, calls, record(1.0), ms=ms)
        for name, calls, ms in (("a", 20, 8.0), ("b", 20, 9.0), ("c", 10, 10.0))
    ]
    best = advice(report(*cells))[2]
    assert best.cell == "a/gddim-20"
    assert best.answer == (
        "a with gddim in 20 calls has the best quality, at a distance of 1.00 to real data."
    )
    assert best.reason == (
        "The best quality of all. Level with it, for their 95 % intervals meet: b with gddim in 20 "
        "calls and c with gddim in 10 calls. Of these three, a with gddim in 20 calls needs the "
        "least time, 8.0 ms."
    )
    points = [cell(n, 4, record(0.95, "high_quality"), ms=m) for n, m in (("a", 1.0), ("b", 2.0))]
    assert (
        "Level with it, for their 95 % intervals meet: b with" in advice(report(*points))[2].reason
    )


def bits(value, kind="NLL by the probability flow", reach=0.05):
    return {"kind": kind, "bits_per_dim": value, "bits_per_dim_interval": reach, "nats": 1.0}


BOUND = "upper bound on the NLL"


def test_a_bound_behind_an_estimate_leaves_open_which_likelihood_is_lower():
    """As in the table, which ranks no such pair: both are named, and none heads the answer."""
    near = {"pixel": bits(1.28), "latent": bits(1.30, BOUND), "gan": bits(2.0)}
    found = advice(report(*SEVERAL, likelihoods=near))[1]
    assert found.cell == "" and found.answer == (
        "pixel gives 1.280 ± 0.050 bits per dimension, latent at most 1.300 ± 0.050: which is "
        "lowest is open; lower is better. The others: gan 2.000 ± 0.050."
    )
    assert found.reason.startswith(
        "Level with pixel, for the 95 % intervals meet: latent. "
        '"At most" marks an upper bound, which can only be too high. '
        "What lies under a bound may be lower than the estimate before it."
    )
    far = advice(report(*SEVERAL, likelihoods=near | {"latent": bits(1.5, BOUND)}))[1]
    assert far.cell == "" and "latent at most 1.500 ± 0.050: which is lowest" in far.answer
    assert "Level" not in far.reason
    first = advice(report(*SEVERAL, likelihoods=near | {"latent": bits(1.1, BOUND)}))[1]
    assert first.cell == "latent/gddim-10" and "open" not in first.answer
    assert "Level" not in first.reason  # to 1.15, from 1.23


def test_likelihoods_that_are_level_are_said_to_be():
    two = {"pixel": bits(1.28), "latent": bits(1.37), "gan": bits(1.40)}
    found = advice(report(*SEVERAL, likelihoods=two))[1]
    assert found.cell == "pixel/gddim-1000"
    assert found.reason.startswith("Level with pixel, for the 95 % intervals meet: latent.")
    alone = advice(report(*SEVERAL, likelihoods={"pixel": bits(1.28), "latent": bits(1.39)}))[1]
    assert "Level" not in alone.reason
    copies = dataclasses.replace(SEVERAL[1], memorisation={"is_flagged": True})
    made = report(copies, SEVERAL[3], likelihoods={"pixel": bits(1.2), "latent": bits(1.3, BOUND)})
    assert "Beware of latent: signs of copying." in advice(made)[1].reason


def test_speed_is_not_advised_on_where_no_good_one_was_timed():
    made = report(cell("a", 20, record(1.0)), cell("b", 1, record(10.0), ms=1.0))
    fast = advice(made)[3]
    assert fast.cell == "" and fast.answer == (
        "None of those that are good enough was timed, so speed cannot be advised on."
    )


def test_times_are_compared_at_one_batch_size():
    """5.0 ms alone are not less than 6.0 ms of 64 at once; at batch 1 both were timed."""
    alone = cell("a", 20, record(1.0), speed=(timed(1, 5.0),))
    both = cell("b", 4, record(1.1), speed=(timed(1, 9.0), timed(64, 6.0)))
    fast = advice(report(alone, both))[3]
    assert fast.cell == "a/gddim-20"
    assert "in 5.0 ms on AMD EPYC, alone, at" in fast.answer
    other = cell("c", 8, record(1.2), speed=(timed(1, 20.0), timed(64, 7.0)))
    fast = advice(report(alone, both, other))[3]
    assert fast.cell == "a/gddim-20"  # at batch 1 there are three times, at 64 two
    late = cell("d", 8, record(1.2), speed=(timed(64, 8.0),))
    fast = advice(report(alone, both, other, late))[3]
    assert fast.cell == "b/gddim-4" and "in 6.0 ms on AMD EPYC, 64 at once, at" in fast.answer
    assert fast.reason.startswith(
        "The least time of all that are good enough and were timed 64 at once; not timed so: a "
        "with gddim in 20 calls."
    )
    best = advice(report(alone, both, other, late))[2]
    assert "the least time" not in best.reason


def test_of_some_that_were_not_timed_the_fastest_says_so():
    fast = advice(report(cell("a", 20, record(1.0)), cell("b", 100, record(0.9), ms=100.0)))[3]
    assert fast.cell == "b/gddim-100"
    assert "not timed so: a with gddim in 20 calls" in fast.reason
