"""On a GPU: networks, walks, models and likelihoods give what they give on a CPU."""

import copy

import pytest
import runs
import small
import torch

from trilemma import load
from trilemma.cli import main
from trilemma.denoiser import GeneratorDenoiser, ScoreDenoiser
from trilemma.errors import ConfigError
from trilemma.evaluation import likelihood
from trilemma.images import to_uint8
from trilemma.likelihood import latent_negative_log_likelihood, negative_log_likelihood
from trilemma.methods.base import prior_sample
from trilemma.metrics.features import EfficientNetLite0Features
from trilemma.networks import (
    PointDiscriminator,
    PointGenerator,
    PointResNet,
    PointScore,
)
from trilemma.parametrisation import Predict, VelocityNoise
from trilemma.pipeline import Pipeline, bundled_models
from trilemma.processes import CLD, VE, VP, GeometricVP, SubVP, uniform_grid
from trilemma.report.measure import _memory
from trilemma.rng import SampleRng
from trilemma.samplers import (
    GDDIM,
    ODE,
    SAMPLERS,
    SSCS,
    Ancestral,
    DPMSolver,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
)

pytestmark = pytest.mark.cuda


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(found, expected):
    """Length of the difference of two tensors relative to that of the second."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    assert found.shape == expected.shape
    assert bool(found.isfinite().all())
    assert float(expected.norm()) > 0
    return float((found - expected).norm() / expected.norm())


# ------------------------------------------------------------------------- networks

X, Y, T, STEP = normal(4, 1, 8, 8), normal(4, 1, 8, 8, seed=2), torch.rand(4), torch.arange(4)
LABEL, CODE = torch.arange(4) % 3, normal(4, 4, seed=3)
P, Q = normal(4, 2), normal(4, 2, seed=2)
STYLED = {"code_dim": 4, "style_dim": 8, "num_mapping_layers": 2}
NETWORKS = {
    "NCSNpp": (lambda: small.unet(8, 1, num_classes=3), (X, T, None, LABEL)),
    "NCSNpp, generator": (
        lambda: small.unet(8, 1, input_pyramid="residual", tanh=True, **STYLED),
        (X, STEP, CODE, None),
    ),
    "NCSNpp, ddpm": (
        lambda: small.unet(8, 1, block="ddpm", resample="mean", time_embedding="fourier"),
        (X, T, None, None),
    ),
    "NCSNpp, skips": (
        lambda: small.unet(
            8, 1, input_pyramid="input_skip", output_pyramid="output_skip", patch_size=2
        ),
        (X, T, None, None),
    ),
    "Discriminator": (small.discriminator, (X, STEP, Y, None)),
    "StridedDiscriminator": (small.strided_discriminator, (X, STEP, Y, LABEL)),
    "PointGenerator": (lambda: PointGenerator(width=32, code_dim=4), (P, STEP, CODE, None)),
    "PointDiscriminator": (lambda: PointDiscriminator(width=32), (P, STEP, Q, None)),
    "PointScore": (lambda: PointScore(2, width=32), (P, T, None, None)),
    "PointResNet": (lambda: PointResNet(2, width=32, num_layers=3), (P, T, None, None)),
    "ResidualVAE": (small.vae, None),
    "ResidualVAE, Bernoulli": (lambda: small.vae(likelihood="bernoulli", binarise=True), None),
    "NVAE": (small.nvae, None),
}


def outputs(network, arguments, device):
    """What a network returns, in one tensor for each thing that it does."""
    if arguments is not None:
        return [network(*(x if x is None else x.to(device) for x in arguments))]
    rng = SampleRng(0, range(len(X)), device)
    x = network.prepare(X.clamp(-1, 1).to(device), rng)
    inferred, law = network(x, rng)
    return [inferred.prior.z, inferred.prior.log_q, law.log_prob(x), law.mean]


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, is_half, device):
    """Channels last, as training and sampling lay the weights out."""
    make, arguments = NETWORKS[name]
    torch.manual_seed(0)
    network = small.filled(make()).eval()
    moved = copy.deepcopy(network).to(device, memory_format=torch.channels_last)
    with torch.no_grad():
        expected = outputs(network, arguments, torch.device("cpu"))
        with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
            found = outputs(moved, arguments, device)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.device.type == device.type
        assert apart(ours, theirs) < (0.1 if is_half else 1e-4)


# --------------------------------------------------------------------------- models


@pytest.mark.parametrize("name", list(bundled_models()))
def test_a_bundled_model_draws_the_same_samples(name, device):
    """A sample depends on the seed and its index alone, on every device."""
    expected = load(name).sample(4, seed=0)
    pipeline = load(name, device=device)
    assert {p.device.type for p in pipeline.method.parameters()} == {device.type}
    found = pipeline.sample(4, seed=0)
    assert found.device.type == "cpu"
    assert float((found - expected).abs().mean()) < 1e-2
    bytes_apart = to_uint8(found).float() - to_uint8(expected).float()
    assert float(bytes_apart.abs().mean()) < 1
    others = load(name, device=device).sample(2, seed=0, first=2, batch_size=1)
    assert float((others - found[2:]).abs().mean()) < 1e-2


def edited(device):
    """What a conditional model draws, edits and makes of data, and how likely they are."""
    pipeline = Pipeline(small.method_named("ddpm"), (1, 8, 8)).to(device)
    ode, x0 = ODE(solver="rk4"), X.clamp(-1, 1)
    yield pipeline.sample(4, num_steps=4, guidance=2.0)
    yield pipeline.sample(4, num_steps=4, sampler="ancestral", return_trajectory=True)
    yield pipeline.edit(x0, num_steps=4)
    yield pipeline.interpolate(0, 1, 3, num_steps=4)
    yield pipeline.interpolate(x0[0], x0[1], 3, sampler=ode, num_steps=2, class_label=1)
    yield pipeline.walk(0, 3, num_steps=4)
    yield likelihood(pipeline, runs.make_data("images"), 4, tolerance=1e-2).nats


def test_a_pipeline_draws_edits_and_judges_alike(device):
    for ours, theirs in zip(edited(device), edited("cpu"), strict=True):
        assert ours.device.type == "cpu"
        assert apart(ours, theirs) < 1e-2


@pytest.mark.parametrize("name", ["lsgm", "lsgm_bernoulli", "latent_ddgan", "hierarchical_vae"])
def test_a_latent_pipeline_draws_and_reconstructs_alike(name, device):
    found = []
    for where in ("cpu", device):
        pipeline = Pipeline(small.method_named(name), (1, 8, 8)).to(where)
        found.append((pipeline.sample(4), pipeline.reconstruct(X.clamp(-1, 1))))
    expected, ours = found
    for one, other in zip(ours, expected, strict=True):
        assert apart(one, other) < 1e-2


def test_a_report_measures_the_memory_of_the_gpu(device):
    pipeline = load("ddgan-mnist", device=device)
    with _memory(pipeline) as grown:
        pipeline.sample(4)
    assert 0 < grown[0] < 2**30


# ------------------------------------------------------------------------- samplers

PROCESSES = {
    "vp": VP(),
    "sub-vp": SubVP(),
    "ve": VE(0.01, 10.0),
    "geometric": GeometricVP(1e-2, 0.9, init_var=1e-2),
    "cld": CLD(),
}
WALKS = {
    "ancestral": Ancestral(),
    "euler_maruyama": EulerMaruyama(),
    "predictor_corrector": PredictorCorrector(),
    "heun": Heun(),
    "heun, churn": Heun(churn=5.0),
    "rk4": ODE(solver="rk4"),
    "dopri5": ODE(solver="dopri5", rtol=1e-4, atol=1e-4),
    "sscs": SSCS(),
    "gddim 1": GDDIM(num_history=1),
    "gddim 2": GDDIM(num_history=2),
    "gddim, noise": GDDIM(num_history=1, stochasticity=1.0),
    "dpm_solver": DPMSolver(),
    "dpm_solver, noise": DPMSolver(stochastic=True),
}


def score(process, device="cpu"):
    """The same network in the plane for every call, behind the given process."""
    torch.manual_seed(0)
    is_pair = process.num_blocks == 2
    network = PointScore(4, 2, width=32) if is_pair else PointScore(2, width=32)
    parametrisation = VelocityNoise() if is_pair else Predict("eps")
    return ScoreDenoiser(network.eval().to(device), process, parametrisation)


def generator(process, device="cpu"):
    torch.manual_seed(0)
    network = PointGenerator(width=32).eval().to(device)
    return GeneratorDenoiser(network, process, uniform_grid(3, 0.1).flip(0))


def accepted():
    """Names of walks and processes that fit."""
    for walk, sampler in WALKS.items():
        for name, process in PROCESSES.items():
            try:
                sampler.check(score(process))
            except ConfigError:
                continue
            yield pytest.param(walk, name, score, id=f"{walk}-{name}")
    for name, process in PROCESSES.items():
        if process.num_blocks == 1:
            yield pytest.param("ancestral", name, generator, id=f"ancestral-{name}-generator")


def test_every_sampler_is_tested():
    assert {type(sampler) for sampler in WALKS.values()} == set(SAMPLERS.values())


@pytest.mark.parametrize(("walk", "process", "make"), list(accepted()))
def test_samplers(walk, process, make, device):
    process, ends = PROCESSES[process], []
    for where in ("cpu", device):
        rng = SampleRng(3, range(4), where)
        u = prior_sample(process, (2,), rng)
        final = "x0" if make is score else "none"
        grid = uniform_grid(3, 0.1)
        ends.append(WALKS[walk].run(make(process, where), u, grid, rng, final=final))
    expected, found = ends
    assert found.device.type == device.type
    assert found.dtype == torch.float32
    assert apart(found, expected) < 1e-3


FIXED = sorted(set(WALKS) - {"dopri5"})
UNWAITING = [("ddgan", "ancestral"), *(("ddpm", walk) for walk in FIXED)]
UNWAITING += [("cld", walk) for walk in FIXED if "churn" not in walk and "dpm" not in walk]


@pytest.mark.parametrize(("kind", "walk"), UNWAITING)
def test_a_walk_does_not_wait_for_the_gpu(kind, walk, device, waits):
    """Steps are queued one after the other; only the end of a walk is waited for."""
    watching, found = waits
    method = small.method_named(kind).eval().to(device)
    rng = SampleRng(0, range(2), device)
    u = prior_sample(method.process, method.state_shape, rng)
    denoiser = method.denoiser(torch.tensor([0, 1]).to(device))
    grid = method.grid() if kind == "ddgan" else method.grid(3)
    with watching():
        end = WALKS[walk].run(denoiser, u, grid, rng)
    assert bool(end.isfinite().all())
    assert not found, "\n".join(f"{count} times {line}" for line, count in found.items())


def test_the_watch_sees_a_wait(device, waits):
    watching, found = waits
    value = torch.ones(3, device=device).sum()
    with watching():
        for _ in range(2):
            value.item()
    assert list(found.values()) == [2]


# ---------------------------------------------------------------------- likelihoods


@pytest.mark.parametrize("divergence", ["hutchinson", "exact"])
@pytest.mark.parametrize("kind", ["vp", "cld"])
def test_likelihood_of_points(kind, divergence, device):
    found, options = [], {"divergence": divergence, "rtol": 1e-4, "atol": 1e-4, "t_min": 1e-3}
    for where in ("cpu", device):
        rng = SampleRng(0, range(4), where)
        denoiser = score(PROCESSES[kind], where)
        found.append(negative_log_likelihood(denoiser, P.to(where), rng, **options))
    expected, ours = found
    assert ours.nfe == pytest.approx(expected.nfe, rel=0.2)
    torch.testing.assert_close(ours.nats.cpu(), expected.nats.cpu(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["ddpm", "cld"])
def test_likelihood_of_pictures(name, device):
    """By Hutchinson's estimate; for the same velocities and probes."""
    found = []
    for where in ("cpu", device):
        method = small.method_named(name).eval().to(where)
        denoiser = method.denoiser(LABEL.to(where))
        rng = SampleRng(0, range(4), where)
        options = {"rtol": 1e-2, "atol": 1e-2, "t_min": 1e-3}
        found.append(negative_log_likelihood(denoiser, X.to(where), rng, **options))
    expected, ours = found
    torch.testing.assert_close(ours.nats.cpu(), expected.nats.cpu(), rtol=2e-2, atol=0.5)


@pytest.mark.parametrize("name", ["lsgm", "lsgm_bernoulli", "latent_cld", "hierarchical_vae"])
def test_the_bound_of_latent_models(name, device):
    found = []
    for where in ("cpu", device):
        method = small.method_named(name).eval().to(where)
        prior = None if name == "hierarchical_vae" else method.denoiser()
        rng, x0 = SampleRng(0, range(4), where), X.clamp(-1, 1).to(where)
        options = {} if prior is None else {"rtol": 1e-2, "atol": 1e-2, "t_min": 1e-2}
        found.append(
            latent_negative_log_likelihood(
                method.autoencoder, prior, x0, rng, num_draws=2, **options
            )
        )
    expected, ours = found
    torch.testing.assert_close(
        ours.reconstruction.cpu(), expected.reconstruction.cpu(), rtol=1e-4, atol=1e-2
    )
    torch.testing.assert_close(ours.nats.cpu(), expected.nats.cpu(), rtol=1e-2, atol=0.5)


# ----------------------------------------------------------- features, command line


def test_features_of_pictures(device):
    try:
        expected = EfficientNetLite0Features(side=64)
    except ConfigError as error:
        pytest.skip(str(error))
    images = torch.randint(0, 256, (4, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    found = EfficientNetLite0Features(side=64, device=device)
    assert apart(found(images), expected(images)) < 1e-3


def test_the_doctor_names_the_gpu(capsys):
    assert main(["doctor"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert torch.cuda.get_device_name(0) in text


def test_the_command_line_takes_the_gpu(tmp_path, capsys, device):
    path = tmp_path / "digits.png"
    call = ["sample", "ddgan-mnist", "-n", "4", "-o", str(path), "--device", device.type]
    assert main(call) == 0
    assert path.stat().st_size > 0
