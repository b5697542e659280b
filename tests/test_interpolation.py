"""Paths through noise: exact ends, smooth, on the sphere; data there and back."""

import math

import pytest
import torch
from oracles import ReplayRng
from torch import nn

from trilemma.autoencoders import Autoencoder
from trilemma.autoencoders.base import Inferred, Latent, Normal
from trilemma.errors import ConfigError
from trilemma.interpolation import (
    KnownRng,
    MixedRng,
    Noise,
    between_noises,
    between_samples,
    draw_path,
    equal_lengths,
    from_noise,
    loop_weights,
    slerp_weights,
)
from trilemma.methods import CLDSGM, DDGAN, DDPM, EDM, LSGM, VAE
from trilemma.networks import NCSNpp, PointGenerator, PointScore
from trilemma.oracle import ExactMixture
from trilemma.pipeline import Pipeline
from trilemma.processes import CLD, VP
from trilemma.rng import Rng, SampleRng
from trilemma.samplers import ODE
from trilemma.sampling import Walk


class PlainLaw:
    def __init__(self, mean):
        self.mean = mean


class TwoGroups(Autoencoder):
    """Data of four numbers: two latents with the learned prior, two of another group."""

    event_shape, latent_shape, other_shapes = (4,), (2,), ((2,),)

    def __init__(self):
        super().__init__()
        turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(5)))[0]
        self.turn = nn.Parameter(turn)

    def encode(self, x):
        return Normal(x @ self.turn[:, :2], torch.full_like(x[:, :2], -2.0))

    def infer(self, x, rng):
        mean = x @ self.turn + 0.1 * rng.normal(4)
        first, second = mean.split(2, dim=1)
        zero = torch.zeros_like(first)
        return Inferred(Latent(first, zero), (Latent(second, zero),))

    def decode(self, z, others=()):
        return PlainLaw(torch.cat([z, *others], 1) @ self.turn.T)


def network(**sizes):
    return NCSNpp(8, channels=4, channel_mult=(1, 1), num_res_blocks=1, **sizes)


METHODS = {
    "gan": lambda: DDGAN(PointGenerator(width=16, num_layers=1)),
    "classes": lambda: DDGAN(network(in_channels=1, code_dim=3, num_classes=3), num_steps=2),
    "ddpm": lambda: DDPM(PointScore(2, width=8), mixed_score=True, default_steps=5),
    "edm": lambda: EDM(PointScore(2, width=8, log_time=False), default_steps=4),
    "cld": lambda: CLDSGM(PointScore(4, 2, width=8), default_steps=6),
    "vae": lambda: VAE(TwoGroups()),
    "lsgm": lambda: LSGM(
        TwoGroups(), DDPM(PointScore(2, width=8), mixed_score=True, default_steps=4)
    ),
    "lsgm-cld": lambda: LSGM(TwoGroups(), CLDSGM(PointScore(4, 2, width=8), default_steps=4)),
    "lsgm-gan": lambda: LSGM(
        TwoGroups(), DDGAN(PointGenerator(width=16, num_layers=1)), train_autoencoder=False
    ),
}
SCORES = ["ddpm", "edm", "cld", "lsgm", "lsgm-cld"]


def pipeline_of(kind):
    torch.manual_seed(0)
    method = METHODS[kind]()
    if kind == "classes":
        for parameter in method.parameters():
            nn.init.normal_(parameter, std=0.2)
    return Pipeline(method, method.event_shape)


# ----------------------------------------------------------------------------- draws


def test_the_ends_of_an_arc_are_exact():
    for angle in (0.0, 0.3, math.pi / 2, 3.0):
        weights = slerp_weights(7, angle)
        assert weights[[0, -1]].tolist() == [[1, 0], [0, 1]]
        squares = weights.square().sum(1) + 2 * math.cos(angle) * weights.prod(1)
        torch.testing.assert_close(squares, torch.ones_like(squares))  # on the sphere
    assert torch.equal(slerp_weights(3, 0.0), slerp_weights(3, 0.0).flip(0, 1))


def test_a_loop_is_closed_and_on_the_sphere():
    weights = loop_weights(12, 0.4)
    torch.testing.assert_close(weights.square().sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(weights[:, 0].acos(), torch.full((12,), 0.4, dtype=torch.float64))
    steps = (weights - weights.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(12))  # the last one to the first, too


@pytest.mark.parametrize("weights", [slerp_weights(5), loop_weights(5, 0.7)], ids=["arc", "loop"])
def test_combined_draws_are_standard_normal(weights):
    sources = [SampleRng(1, [i]) for i in range(weights.shape[1])]
    draws = MixedRng(sources, weights).normal(20_000).double()
    assert (draws.mean(1).abs() < 0.03).all()
    assert (draws.square().mean(1) - 1).abs().max() < 0.04
    assert (draws.pow(4).mean(1) - 3).abs().max() < 0.3


def test_other_draws_come_from_the_nearer_source():
    def make():
        return MixedRng([SampleRng(0, [3]), SampleRng(0, [4])], slerp_weights(4))

    first, second = SampleRng(0, [3]), SampleRng(0, [4])
    assert isinstance(make(), Rng)
    a, b = float(first.uniform()), float(second.uniform())
    assert make().uniform().tolist() == [a, a, b, b]
    mixed = make()
    first, second = SampleRng(0, [3]), SampleRng(0, [4])
    a, b = int(first.integers(1000)), int(second.integers(1000))
    assert mixed.integers(1000).tolist() == [a, a, b, b]


def test_known_draws_come_in_order_and_then_their_mean():
    rng = KnownRng([torch.ones(2, 3), torch.full((2, 1, 2), 2.0)], 2)
    assert isinstance(rng, Rng)
    assert torch.equal(rng.normal(3), torch.ones(2, 3))
    with pytest.raises(ConfigError, match=r"\(1, 2\) given, \(5,\) needed"):
        rng.normal(5)
    assert torch.equal(rng.normal(4), torch.zeros(2, 4))
    assert rng.uniform().tolist() == [0.5, 0.5]
    assert rng.integers(3).tolist() == [0, 0]


# ----------------------------------------------------------------------------- paths


@pytest.mark.parametrize("kind", METHODS)
def test_the_ends_of_a_path_are_the_samples(kind):
    pipeline = pipeline_of(kind)
    options = {"seed": 4, "batch_size": 1}
    frames = pipeline.interpolate(2, 5, 4, **options)
    samples = pipeline.sample(4, first=2, **options)
    assert torch.equal(frames[[0, -1]], samples[[0, -1]])
    assert frames.shape == (4, *pipeline.event_shape)
    apart = (frames.diff(dim=0)).flatten(1).norm(dim=1)
    assert (apart > 0).all()


@pytest.mark.parametrize(
    ("kind", "sampler"), [("cld", "sscs"), ("ddpm", "euler_maruyama"), ("ddpm", "ode")]
)
def test_any_sampler_and_temperature_will_do(kind, sampler):
    pipeline = pipeline_of(kind)
    options = {"sampler": sampler, "num_steps": 3, "temperature": 0.7, "batch_size": 1}
    frames = pipeline.interpolate(0, 1, 3, **options)
    assert torch.equal(frames[[0, -1]], pipeline.sample(2, **options))
    assert not torch.equal(frames[[0]], pipeline.sample(1, **{**options, "temperature": 1.0}))


@pytest.mark.parametrize("kind", METHODS)
def test_paths_are_continuous(kind):
    """Steps shrink with the number of frames; classes jump once, so one class is asked for."""
    pipeline = pipeline_of(kind)
    options = {"class_label": 1} if pipeline.num_classes else {}
    largest = []
    for num in (17, 65):
        arc = pipeline.interpolate(0, 1, num, **options)
        loop = pipeline.walk(0, num - 1, **options)
        steps = torch.cat([arc.diff(dim=0), loop - loop.roll(1, 0)])
        largest.append(float(steps.flatten(1).norm(dim=1).max()))
    assert largest[1] < largest[0] / 3


@pytest.mark.parametrize("kind", METHODS)
def test_a_frame_does_not_depend_on_its_batch(kind):
    pipeline = pipeline_of(kind)
    close = {"rtol": 1e-4, "atol": 1e-5}
    for draw in (
        lambda **o: pipeline.interpolate(3, 4, 7, spacing="angle", **o),
        lambda **o: pipeline.walk(1, 7, **o),
    ):
        torch.testing.assert_close(draw(batch_size=3), draw(), **close)
    few, many = (pipeline.interpolate(3, 4, 7, spacing="length", batch_size=b) for b in (3, 64))
    torch.testing.assert_close(few, many, rtol=0, atol=1e-3)  # where rounding is 1e-4 of a path


def test_classes_belong_to_the_nearer_end():
    pipeline, seen = pipeline_of("classes"), []
    denoiser = pipeline.method.denoiser

    def spy(label=None, **options):
        seen.append(label)
        return denoiser(label, **options)

    pipeline.method.denoiser = spy
    pipeline.interpolate(1, 5, 4)
    assert seen[-1].tolist() == [1, 1, 2, 2]
    pipeline.interpolate(1, 5, 4, class_label=0)
    assert seen[-1].tolist() == [0] * 4
    pipeline.walk(5, 3)
    assert seen[-1].tolist() == [2] * 3


def test_a_small_walk_stays_close():
    pipeline = pipeline_of("ddpm")
    sample = pipeline.sample(1, first=6)
    far = [float((pipeline.walk(6, 8, radius=r) - sample).abs().max()) for r in (0.01, 0.1, 1.0)]
    assert far == sorted(far)
    assert far[0] < 0.1
    assert not torch.equal(pipeline.walk(6, 8, seed=1), pipeline.walk(6, 8))


def test_calls_and_progress_are_counted():
    pipeline, seen = pipeline_of("edm"), []
    pipeline.interpolate(0, 1, 5, num_steps=3, batch_size=2, progress=seen.append)
    assert pipeline.last_nfe == 5
    assert seen == [2, 2, 1]


# --------------------------------------------------------------------------- spacing


def lengths(frames):
    return frames.double().flatten(1).diff(dim=0).norm(dim=1)


@pytest.mark.parametrize("kind", ["ddpm", "edm", "cld", "lsgm", "lsgm-cld", "lsgm-gan", "vae"])
def test_frames_are_equally_far_apart(kind):
    """Along the path, which may turn between two frames: 20 draws measure each piece."""
    method, arc, num = pipeline_of(kind).method, between_samples(0, 1, 0), 33

    def pieces(path):
        share = torch.atan2(*path.weights.T.flip(0)) / (math.pi / 2)
        part = torch.arange(20, dtype=torch.float64) / 20
        dense = torch.lerp(share[:-1, None], share[1:, None], part).flatten()
        path = arc.path(torch.cat([dense, share[-1:]]))
        frames = torch.cat([drawn.data for drawn in draw_path(method, path, Walk())])
        if kind.startswith(("lsgm", "vae")):  # the other group's latents follow the angle
            frames = (frames @ method.autoencoder.turn)[:, :2]
        found = lengths(frames).view(num - 1, 20).sum(1)
        return found / found.mean()

    by_length = pieces(equal_lengths(method, arc, num, Walk())[0])
    torch.testing.assert_close(by_length, torch.ones(num - 1).double(), rtol=0, atol=0.1)
    assert by_length.std() < pieces(arc.path(num)).std() / 3


def test_equal_lengths_of_an_ellipse():
    """Latents without a network are the noise: its arc is a quarter of an ellipse."""
    method = VAE(TwoGroups())
    first, second = (SampleRng(6, [i]).normal(1, 2).double().flatten() for i in (3, 4))
    angle = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    curve = first * angle.cos()[:, None] + second * angle.sin()[:, None]
    share = lengths(curve).cumsum(0)
    at = torch.searchsorted(share / share[-1], torch.linspace(0, 1, 9, dtype=torch.float64)[1:-1])
    path, calls = equal_lengths(method, between_samples(3, 4, 6), 9, Walk())
    expected = torch.stack([angle[at].cos(), angle[at].sin()], dim=1)
    torch.testing.assert_close(path.weights[1:-1], expected, rtol=0, atol=5e-3)
    assert (slerp_weights(9)[1:-1] - expected).abs().max() > 0.05
    assert calls == 0


@pytest.mark.parametrize("kind", ["ddpm", "lsgm", "lsgm-gan"])
@pytest.mark.parametrize("num", [2, 3, 8, 9])
def test_a_path_by_lengths_is_the_same_from_either_end(kind, num):
    pipeline = pipeline_of(kind)
    there, back = (pipeline.interpolate(*ends, num, spacing="length") for ends in ((2, 5), (5, 2)))
    torch.testing.assert_close(back.flip(0), there, rtol=0, atol=1e-5)
    samples = pipeline.sample(4, first=2)
    torch.testing.assert_close(there[[0, -1]], samples[[0, -1]], rtol=0, atol=1e-5)


def test_latents_go_by_lengths_and_data_by_the_angle():
    for kind, default in (("lsgm", "length"), ("vae", "length"), ("ddpm", "angle")):
        pipeline = pipeline_of(kind)
        found = {by: pipeline.interpolate(0, 1, 6, spacing=by) for by in ("length", "angle")}
        assert torch.equal(pipeline.interpolate(0, 1, 6), found[default])
        assert not torch.allclose(found["length"], found["angle"], atol=1e-3)


def test_measuring_draws_are_counted():
    pipeline, seen = pipeline_of("lsgm"), []  # four calls a draw
    for num, draws in ((2, 0), (8, 40), (9, 41)):
        pipeline.interpolate(0, 1, num, batch_size=5, progress=seen.append)
        assert pipeline.last_nfe == 4 + round(4 * draws / num)
    assert sum(seen) == 19
    pipeline.interpolate(0, 1, 8, spacing="angle")
    assert pipeline.last_nfe == 4


def test_a_path_that_does_not_move_is_drawn():
    pipeline = pipeline_of("ddpm")
    options = {"sampler": "ode", "temperature": 0.0, "num_steps": 4}
    frames = pipeline.interpolate(0, 1, 4, spacing="length", **options)
    assert torch.isfinite(frames).all()
    assert torch.equal(frames, frames[:1].expand_as(frames))


def test_the_jump_between_classes_has_no_length():
    """Each half is measured by itself: no frames are spent on what cannot be divided."""
    pipeline, arc = pipeline_of("classes"), between_samples(0, 1, 0)
    method, num = pipeline.method, 21
    path, _ = equal_lengths(method, arc, num, Walk())
    label = torch.tensor([i % 3 for i in path.indices])
    assert label.tolist() == sorted(label.tolist())
    assert label.unique().tolist() == [0, 1]
    steps = lengths(torch.cat([drawn.data for drawn in draw_path(method, path, Walk(), label)]))
    same = steps[label.diff() == 0]
    assert same.max() / same.mean() < 1.2
    assert same.min() / same.mean() > 0.8


def test_data_go_by_lengths_too():
    pipeline = pipeline_of("vae")
    first, second = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
    frames = pipeline.interpolate(first, second, 9)
    torch.testing.assert_close(frames[[0, -1]], torch.stack([first, second]))
    steps = lengths((frames @ pipeline.method.autoencoder.turn)[:, :2])
    assert steps.max() / steps.mean() < 1.05


# ------------------------------------------------------------------------------ data


class Oracle(DDPM):
    """The method of an exact score in two dimensions."""

    def __init__(self, process):
        super().__init__(PointScore(2 * process.num_blocks, 2, width=4), VP())
        self.process = process

    event_shape = (2,)

    def denoiser(self, label=None, *, guidance=1.0):
        centres = torch.tensor([[0.8, 0.3], [-0.5, 0.9], [-0.4, -0.7]])
        return ExactMixture(self.process, centres, 0.25)


def noised(pipeline, x0, seed):
    """Data as the process has them at the end of the grid: where encoding starts."""
    process, time = pipeline.method.process, pipeline.method.grid()[-1]
    eps = SampleRng(seed, range(len(x0))).normal(process.num_blocks, *x0.shape[1:])
    return process.marginal(time).sample(process.lift(x0), eps.to(x0))[:, 0]


@pytest.mark.parametrize("process", [VP(), CLD()], ids=["vp", "cld"])
def test_data_of_an_exact_score_come_back(process):
    method = Oracle(process)
    pipeline = Pipeline(method, (2,))
    x0 = method.denoiser().sample(60, torch.Generator().manual_seed(1)).float()
    errors = []
    for tolerance in (1e-2, 1e-4):
        solver = ODE(rtol=tolerance, atol=tolerance)
        noise = pipeline.encode_to_noise(x0, sampler=solver, seed=3)
        back = pipeline.decode_from_noise(noise, sampler=solver)
        errors.append(float((back - noised(pipeline, x0, 3)).abs().mean()))
    assert errors[0] < 0.1
    assert errors[1] < 2e-3
    assert errors[1] < errors[0] / 5
    assert (noise.state.mean((0, 2)).abs() < 0.3).all()  # the data's noise is that of the prior
    assert (noise.state.square().mean((0, 2)) - 1).abs().max() < 0.4
    others = pipeline.encode_to_noise(x0[:3], sampler=solver, seed=4)
    assert (others.state - noise.state[:3]).abs().max() > 0.01


@pytest.mark.parametrize("kind", SCORES)
def test_data_of_any_flow_come_back(kind):
    """Random networks: the flow leads back, whatever it is; latents keep these data whole."""
    pipeline = pipeline_of(kind)
    x0 = torch.randn(3, *pipeline.event_shape)
    solver = ODE(rtol=1e-4, atol=1e-4)
    noise = pipeline.encode_to_noise(x0, sampler=solver, batch_size=2)
    back = pipeline.decode_from_noise(noise, sampler=solver, batch_size=2)
    assert pipeline.last_nfe > 0
    is_latent = kind.startswith("lsgm")
    expected = x0 if is_latent else noised(pipeline, x0, 0)
    tolerance = 0.1 if is_latent else 5e-3  # the noise that latents get is not known here
    torch.testing.assert_close(back, expected, rtol=tolerance, atol=tolerance)
    blocks = pipeline.method.process.num_blocks
    assert noise.state.shape == (3, blocks, *pipeline.method.state_shape)


def test_a_solver_on_the_grid_goes_both_ways():
    pipeline = pipeline_of("ddpm")
    x0, walk = torch.randn(4, 2), {"sampler": ODE(solver="rk4"), "num_steps": 60, "grid": "root"}
    back = pipeline.decode_from_noise(pipeline.encode_to_noise(x0, **walk), **walk)
    torch.testing.assert_close(back, noised(pipeline, x0, 0), rtol=1e-2, atol=1e-2)


def test_latents_without_a_network_are_the_noise():
    pipeline = pipeline_of("vae")
    x0 = torch.randn(3, 4)
    noise = pipeline.encode_to_noise(x0)
    assert [tuple(part.shape) for part in (noise.state, *noise.others)] == [(3, 1, 2), (3, 2)]
    torch.testing.assert_close(pipeline.decode_from_noise(noise), x0)
    torch.testing.assert_close(pipeline.reconstruct(x0, batch_size=2), x0)


@pytest.mark.parametrize("kind", ["vae", "lsgm", "ddpm", "cld"])
def test_a_path_between_data_ends_at_them(kind):
    pipeline = pipeline_of(kind)
    first, second = torch.randn(2, *pipeline.event_shape)
    walk = {"sampler": ODE(rtol=1e-3, atol=1e-3)}
    frames = pipeline.interpolate(first, second, 5, **walk)
    ends = torch.stack([first, second])
    torch.testing.assert_close(frames[[0, -1]], ends, rtol=0.1, atol=0.1)
    loop = pipeline.walk(first, 6, radius=0.01, **walk)
    torch.testing.assert_close(loop, first.expand(6, -1), rtol=0.2, atol=0.2)


def test_an_arc_between_noises_keeps_their_length():
    state = torch.nn.functional.normalize(torch.randn(2, 1, 30), dim=2)
    path = between_noises(Noise(state)).path(7)
    lengths = (path.weights @ state[:, 0].double()).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(7, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="opposite"):
        between_noises(Noise(torch.cat([state[:1], -state[:1]]))).path(3)
    still = between_noises(Noise(state[:1].expand(2, -1, -1))).path(3)
    torch.testing.assert_close(still.weights.sum(1), torch.ones(3, dtype=torch.float64))


def test_noises_are_taken_row_by_row():
    noise = Noise(torch.arange(6.0).view(3, 1, 2), (torch.arange(3.0)[:, None],))
    (source,) = from_noise(noise).sources
    rng = source(slice(1, 3), torch.device("cpu"))
    assert torch.equal(rng.normal(1, 2), noise.state[1:])
    assert torch.equal(rng.normal(1), noise.others[0][1:])
    replay = MixedRng([ReplayRng(noise.state)], torch.ones(3, 1))
    assert torch.equal(replay.normal(1, 2), noise.state)


# -------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.interpolate(1, 1), "sample 1 to itself"),
        (lambda p: p.interpolate(0, 1, 1), "1 frames: at least 2"),
        (lambda p: p.interpolate(0, torch.zeros(2)), "not one of each"),
        (lambda p: p.interpolate(torch.zeros(2), torch.zeros(3)), r"\(3,\) given, \(2,\) needed"),
        (lambda p: p.interpolate(0, 1, temperature=-1.0), "temperature=-1"),
        (lambda p: p.interpolate(0, 1, class_label=1), "without labels"),
        (lambda p: p.interpolate(0, 1, spacing="arc"), "spacing='arc': 'length' or 'angle'"),
        (lambda p: p.interpolate(0, 1, 1, spacing="length"), "1 frames: at least 2"),
        (lambda p: p.walk(0, 1), "1 frames: at least 2"),
        (lambda p: p.walk(0, radius=0.0), r"radius=0.0 must lie in \(0, pi/2\]"),
        (lambda p: p.walk(0, radius=2.0), r"radius=2.0 must lie in"),
        (lambda p: p.walk(0, batch_size=0), "batch_size=0"),
        (lambda p: p.encode_to_noise(torch.zeros(1, 2), sampler="heun"), "Heun has no inverse"),
        (lambda p: p.reconstruct(torch.zeros(1, 2)), "DDPM has no autoencoder"),
    ],
)
def test_errors_name_the_argument(call, words):
    with pytest.raises(ConfigError, match=words):
        call(pipeline_of("ddpm"))


@pytest.mark.parametrize("kind", ["gan", "lsgm-gan"])
def test_a_gan_has_no_way_back(kind):
    pipeline = pipeline_of(kind)
    with pytest.raises(ConfigError, match="no probability flow"):
        pipeline.encode_to_noise(torch.zeros(1, *pipeline.event_shape))


def test_data_of_a_model_with_classes_need_theirs():
    torch.manual_seed(0)
    method = DDPM(network(in_channels=1, num_classes=3, time_embedding="fourier"), mixed_score=True)
    pipeline = Pipeline(method, (1, 8, 8))
    x0 = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ConfigError, match="say with class_label"):
        pipeline.interpolate(*x0)
    walk = {"sampler": ODE(solver="euler"), "num_steps": 2}
    noise = pipeline.encode_to_noise(x0, class_label=1, **walk)
    with pytest.raises(ConfigError, match="say with class_label"):
        pipeline.decode_from_noise(noise, **walk)
    assert pipeline.decode_from_noise(noise, class_label=1, **walk).shape == x0.shape
    assert pipeline.walk(x0[0], 2, class_label=2, **walk).shape == x0.shape


def test_walks_of_an_unknown_setting_are_a_type_error():
    with pytest.raises(TypeError, match="speed"):
        pipeline_of("ddpm").interpolate(0, 1, speed=3)
    assert Walk().temperature == 1.0
