"""Drawing from methods: samples that own their randomness, labels, walks, and edits."""

import pytest
import torch
from oracles import BasisRng, affine_law

from trilemma.errors import ConfigError
from trilemma.methods import CLDSGM, DDGAN, DDPM, EDM
from trilemma.methods.base import prior_sample
from trilemma.networks import NCSNpp, PointGenerator, PointScore
from trilemma.pipeline import Pipeline
from trilemma.processes import CLD, VE, VP, uniform_grid
from trilemma.rng import SampleRng
from trilemma.samplers import GDDIM, ODE, SAMPLERS, SSCS, Ancestral, EulerMaruyama, Heun
from trilemma.sampling import Start, Walk, labels_for, make_sampler, sample_indices


def method_of(kind):
    torch.manual_seed(0)
    if kind == "images":
        network = NCSNpp(
            8, 1, channels=4, channel_mult=(1, 1), num_res_blocks=1, code_dim=3, num_classes=3
        )
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return DDGAN(network, num_steps=2).eval()
    methods = {
        "points": lambda: DDGAN(PointGenerator(width=16, num_layers=1)),
        "ddpm": lambda: DDPM(PointScore(2, width=8), default_steps=5),
        "edm": lambda: EDM(PointScore(2, width=8, log_time=False), default_steps=4),
        "cld": lambda: CLDSGM(PointScore(4, 2, width=8), default_steps=6),
        "cld-denoising": lambda: CLDSGM(PointScore(4, 2, width=8), objective="denoising"),
    }
    return methods[kind]().eval()


KINDS = ["points", "images", "ddpm", "edm", "cld"]
close = {"rtol": 1e-4, "atol": 1e-5}


def draw(method, indices, batch_size=64, **options):
    batches = sample_indices(method, indices, batch_size=batch_size, **options)
    return torch.cat([drawn.data for drawn in batches])


# ------------------------------------------------------------------- sample and batch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_sample_does_not_depend_on_its_batch(kind, batch_size):
    method = method_of(kind)
    whole = draw(method, range(7), seed=3)
    torch.testing.assert_close(draw(method, range(7), batch_size, seed=3), whole, **close)


def check_order_and_offset(kind):
    method = method_of(kind)
    whole = draw(method, range(8), seed=3)
    order = [5, 2, 7, 0]
    torch.testing.assert_close(draw(method, order, seed=3), whole[order], **close)
    torch.testing.assert_close(draw(method, range(6, 8), seed=3), whole[6:], **close)
    parts = [draw(method, chunk, seed=3) for chunk in (range(3), range(3, 4), range(4, 8))]
    torch.testing.assert_close(torch.cat(parts), whole, **close)
    assert not torch.allclose(draw(method, range(8), seed=4), whole)
    rows = whole.flatten(1)
    assert not torch.allclose(rows[0], rows[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_does_not_depend_on_order_or_offset(kind):
    check_order_and_offset(kind)


@pytest.mark.parametrize("kind", ["ddpm", "cld"])
def test_batches_share_the_coefficients_of_the_grid(kind, monkeypatch):
    method, calls = method_of(kind), []
    readout = method.parametrisation.readout

    def counted(process, t):
        calls.append(len(t))
        return readout(process, t)

    monkeypatch.setattr(method.parametrisation, "readout", counted)
    draw(method, range(6), 2, walk=Walk(num_steps=4))
    assert len(calls) == 1


def test_labels_belong_to_samples():
    method = method_of("images")
    drawn = list(sample_indices(method, range(2, 7), batch_size=2))
    assert torch.cat([batch.label for batch in drawn]).tolist() == [2, 0, 1, 2, 0]
    (one,) = sample_indices(method, range(4), class_label=1)
    assert one.label.tolist() == [1, 1, 1, 1]
    assert labels_for(0, range(3), None) is None


@pytest.mark.parametrize("class_label", [-1, 3, 99])
def test_unknown_class_labels_are_refused(class_label):
    with pytest.raises(ConfigError, match=rf"class_label={class_label} is not in 0\.\.2"):
        labels_for(3, range(2), class_label)


def test_labels_of_an_unconditional_model_are_refused():
    with pytest.raises(ConfigError, match="without labels"):
        labels_for(0, range(2), 0)


def test_guidance_of_an_unconditional_model_is_refused():
    with pytest.raises(ConfigError, match=r"guidance=2\.0"):
        draw(method_of("ddpm"), range(2), walk=Walk(guidance=2.0))


def test_progress_counts_samples():
    seen = []
    list(sample_indices(method_of("points"), range(7), batch_size=3, progress=seen.append))
    assert seen == [3, 3, 1]


# ------------------------------------------------------------------------------ walks


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_by_name(name):
    assert type(make_sampler(name)) is SAMPLERS[name]
    assert type(make_sampler(name.replace("_", "-"))) is SAMPLERS[name]


def test_arguments_of_samplers():
    assert make_sampler("gddim", num_history=1, stochasticity=0.5).stochasticity == 0.5
    assert make_sampler("ode", rtol=1e-3).rtol == 1e-3


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("gdim", {}, "no sampler 'gdim'; did you mean 'gddim'"),
        ("euler", {}, "no sampler 'euler'.*'euler_maruyama'"),
        ("sscs", {"clock": True}, "sscs: no argument 'clock'.*'reference_clock'"),
        ("ancestral", {"t_min": 0.0}, "ancestral: no argument 't_min'.*Allowed: 'variance'"),
        ("ode", {"rtol": -1.0}, r"rtol=-1\.0"),
    ],
)
def test_mistakes_name_what_is_meant(name, arguments, words):
    with pytest.raises(ConfigError, match=words):
        make_sampler(name, **arguments)


@pytest.mark.parametrize(
    ("kind", "sampler", "grid", "nfe"),
    [
        ("points", Ancestral, "uniform", 4),
        ("ddpm", Ancestral, "uniform", 5),
        ("edm", Heun, "rho", 7),
        ("cld", GDDIM, "root", 6),
        ("cld-denoising", SSCS, "root", 50),
    ],
)
def test_what_suits_a_method(kind, sampler, grid, nfe):
    method = method_of(kind)
    assert type(Walk().sampler_for(method)) is sampler
    assert torch.equal(method.grid(), method.grid(None, grid))
    (drawn,) = sample_indices(method, range(2))
    assert drawn.nfe == nfe
    assert drawn.data.isfinite().all()
    assert drawn.trajectory is None


def test_a_walk_takes_names_and_objects():
    method = method_of("cld")
    sampler = SSCS()
    assert Walk(sampler).sampler_for(method) is sampler
    assert type(Walk("euler-maruyama").sampler_for(method)) is EulerMaruyama
    by_name, by_object = Walk("sscs", 3, "uniform"), Walk(SSCS(), 3, "uniform")
    assert torch.equal(draw(method, range(3), walk=by_name), draw(method, range(3), walk=by_object))


@pytest.mark.parametrize(
    ("kind", "walk", "words"),
    [
        ("points", Walk("sscs"), "use the ancestral sampler"),
        ("points", Walk(num_steps=3), "cannot sample in 3"),
        ("points", Walk(grid="quadratic"), "trained on a uniform grid"),
        ("cld", Walk("dpm_solver"), "use gddim"),
        ("cld", Walk(grid="quadratc"), "did you mean 'quadratic'"),
        ("cld-denoising", Walk("gddim"), "use sscs"),
        ("cld-denoising", Walk(num_steps=2, final="x0"), "train with hybrid"),
        ("ddpm", Walk(num_steps=0), "num_steps=0"),
    ],
)
def test_walks_that_do_not_fit_are_refused(kind, walk, words):
    with pytest.raises(ConfigError, match=words):
        draw(method_of(kind), range(2), walk=walk)


@pytest.mark.parametrize(
    ("kind", "walk", "nfe"),
    [
        ("ddpm", Walk("heun", 3), 5),
        ("ddpm", Walk("heun", 3, final="none"), 6),
        ("edm", Walk(num_steps=18), 35),  # as published
        ("ddpm", Walk("euler_maruyama", 3, final="drift"), 4),
        ("cld", Walk("sscs", 3, final="drift"), 3),
        ("cld", Walk("sscs", 3, final="x0"), 3),
    ],
)
def test_calls_are_counted_per_sample(kind, walk, nfe):
    batches = sample_indices(method_of(kind), range(5), walk, batch_size=2)
    assert [drawn.nfe for drawn in batches] == [nfe] * 3


# ---------------------------------------------------------------------- trajectories


def pipeline_of(kind):
    method = method_of(kind)
    return Pipeline(method, method.event_shape)


@pytest.mark.parametrize(("kind", "num_states"), [("points", 5), ("images", 3), ("cld", 7)])
def test_a_trajectory_leads_to_the_sample(kind, num_states):
    pipeline = pipeline_of(kind)
    states = pipeline.sample(5, seed=1, batch_size=2, return_trajectory=True)
    assert states.shape == (num_states, 5, *pipeline.event_shape)
    assert torch.equal(states[-1], pipeline.sample(5, seed=1, batch_size=2))
    method, rows = pipeline.method, SampleRng(1, range(5))
    assert torch.equal(states[0], prior_sample(method.process, method.event_shape, rows)[:, 0])


@pytest.mark.parametrize(("final", "extra"), [("drift", 0), ("x0", 1)])
def test_a_trajectory_holds_how_the_walk_ends(final, extra):
    pipeline = pipeline_of("cld")
    plain = pipeline.sample(3, num_steps=4, return_trajectory=True, final="none")
    options = {"num_steps": 4 + extra, "final": final}
    states = pipeline.sample(3, return_trajectory=True, **options)
    assert len(states) == len(plain) + 1
    assert torch.equal(states[:-1], plain)
    assert torch.equal(states[-1], pipeline.sample(3, **options))


def test_an_adaptive_solver_shows_its_ends_and_the_prediction():
    states = pipeline_of("cld").sample(3, sampler=ODE(rtol=1e-2, atol=1e-2), return_trajectory=True)
    assert len(states) == 3


@pytest.mark.parametrize(
    ("kind", "final"),
    [("ddpm", "x0"), ("edm", "x0"), ("cld", "x0"), ("cld-denoising", "none"), ("points", "none")],
)
def test_a_score_model_ends_in_clean_data(kind, final):
    method = method_of(kind)
    assert Walk().final_for(method) == final
    steps = method.default_steps
    assert len(Walk().grid_for(method)) == steps + (final == "none")
    assert len(Walk(final="none").grid_for(method)) == steps + 1
    assert torch.equal(draw(method, range(3)), draw(method, range(3), walk=Walk(final=final)))


def test_a_walk_of_one_step_needs_another_end():
    with pytest.raises(ConfigError, match="2 steps or more, or final 'none'"):
        draw(method_of("ddpm"), range(2), walk=Walk(num_steps=1))
    assert draw(method_of("ddpm"), range(2), walk=Walk(num_steps=1, final="none")).isfinite().all()


def test_a_pipeline_knows_its_calls():
    pipeline = pipeline_of("edm")
    pipeline.sample(3, num_steps=3, batch_size=2)
    assert pipeline.last_nfe == 5


# ------------------------------------------------------------------------------ edits


@pytest.mark.parametrize("process", [VP(), VE(), CLD(jitter=1e-6)], ids=["vp", "ve", "cld"])
@pytest.mark.parametrize(("t", "origin"), [(0.4, 0.0), (0.75, 1e-3), (1.0, 0.0)])
def test_the_noised_state_has_the_law_of_the_marginal(process, t, origin):
    k, x0 = process.num_blocks, torch.tensor([[0.3, -2.0]], dtype=torch.float64)
    noised = Start.noise(process, x0.expand(1 + 2 * k, 2), t, origin, BasisRng(2 * k))
    mean, cov = affine_law(noised)
    kernel, eye = process.marginal(t, origin), torch.eye(2, dtype=torch.float64)
    signal = kernel.mean_matrix[:, :1].contiguous()
    torch.testing.assert_close(mean, torch.kron(signal, x0.T).flatten(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cov, torch.kron(kernel.cov, eye), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("strength", "first"), [(1.0, 0), (0.9, 0), (0.8, 1), (0.6, 2), (0.4, 2), (0.3, 3), (1e-3, 3)]
)
def test_a_strength_means_the_nearest_time(strength, first):
    grid = uniform_grid(4)
    shortened = Start(torch.zeros(1, 2), strength).shorten(grid)
    assert torch.equal(shortened, grid[first:])
    pipeline = pipeline_of("points")
    states = pipeline.edit(torch.zeros(2, 2), strength, return_trajectory=True)
    assert len(states) == 5 - first
    assert pipeline.last_nfe == 4 - first


@pytest.mark.parametrize("kind", ["ddpm", "edm", "cld"])
@pytest.mark.parametrize("strength", [0.9, 0.4, 0.1])
@pytest.mark.parametrize("num_steps", [1, 2, 50])
def test_a_strength_is_a_ratio_of_signal_to_noise_on_every_clock(kind, strength, num_steps):
    method = method_of(kind)
    whole = method.grid(num_steps)
    grid = Start(torch.zeros(1, 2), strength).shorten(whole, method.process)
    expected = VP().log_snr(strength)
    torch.testing.assert_close(method.process.log_snr(grid[0]), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(grid[1:], whole[whole < grid[0]])
    assert float(grid[-1]) == method.sampling_t_min
    if kind == "ddpm":
        assert float(grid[0]) == pytest.approx(strength, rel=1e-9)


def test_the_least_strength_leaves_a_step_to_walk():
    method = method_of("ddpm")
    grid = Start(torch.zeros(1, 2), 1e-6).shorten(method.grid(5), method.process)
    assert grid.tolist() == [2 * method.sampling_t_min, method.sampling_t_min]


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5, float("nan")])
def test_strengths_outside_their_range_are_refused(strength):
    with pytest.raises(ConfigError, match="strength="):
        pipeline_of("points").edit(torch.zeros(1, 2), strength)


def test_data_of_another_shape_are_refused():
    with pytest.raises(ConfigError, match=r"\(3,\) given, \(2,\) needed"):
        pipeline_of("points").edit(torch.zeros(1, 3))


@pytest.mark.parametrize("kind", ["points", "ddpm", "cld"])
def test_full_strength_without_data_is_sampling(kind):
    """At t = 1 nothing but the prior's noise is left, up to the remainder of the signal."""
    pipeline = pipeline_of(kind)
    edited = pipeline.edit(torch.zeros(4, 2), 1.0, seed=5)
    drawn = pipeline.sample(4, seed=5)
    torch.testing.assert_close(edited, drawn, rtol=1e-2, atol=1e-2)
    assert not torch.equal(edited, drawn)


@pytest.mark.parametrize("kind", ["points", "ddpm", "cld", "images"])
def test_an_edit_belongs_to_its_datum(kind):
    pipeline = pipeline_of(kind)
    x0 = torch.randn(5, *pipeline.event_shape)
    whole = pipeline.edit(x0, 0.5, seed=2)
    assert whole.shape == x0.shape
    torch.testing.assert_close(pipeline.edit(x0, 0.5, seed=2, batch_size=2), whole, **close)
    torch.testing.assert_close(pipeline.edit(x0[3:], 0.5, seed=2, first=3), whole[3:], **close)


def test_little_strength_changes_little():
    pipeline = pipeline_of("ddpm")
    x0 = torch.randn(6, 2)
    far = [
        float((pipeline.edit(x0, strength, num_steps=50, grid="uniform") - x0).abs().mean())
        for strength in (0.02, 0.2, 0.6)
    ]
    assert far == sorted(far)
    assert far[0] < 0.2
