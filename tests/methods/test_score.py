"""Score matching: recorded losses and training, exact minima on Gaussian data, labels."""

import itertools

import pytest
import torch
from oracles import ReplayRng, below, golden_cld, name_of, official_points, unchecked
from torch import nn

from trilemma.errors import ConfigError
from trilemma.methods import CLDSGM, DDPM, EDM, Likelihood, Reweighted, UniformTimes, UniformWeight
from trilemma.networks import PointResNet, PointScore
from trilemma.processes import CLD, VE, VP, GeometricVP, SubVP, act
from trilemma.rng import BatchRng
from trilemma.training import Adam

T_MIN = 1e-5


class Replay(ReplayRng):
    """Recorded draws; uniform numbers too."""

    def uniform(self, pairing="independent"):
        return self._next(())


def uniform_of(t, t_min=T_MIN):
    """The uniform numbers behind uniformly drawn times."""
    return (t - t_min) / (1 - t_min)


def close(value, expected, rtol=1e-5, atol=0.0):
    torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)


# ------------------------------------------------------------------- recorded losses

SETTINGS = {
    "cifar": {"beta_min": 4.0, "jitter": 1e-9},
    "celeba_post": {"beta_min": 0.1, "beta_max": 7.0, "jitter": 1e-6},
}
OBJECTIVES = {"hsm": "hybrid", "dsm": "denoising"}
WEIGHTS = {
    "loss_reweightedv2": UniformWeight(),
    "loss_reweightedv1": Reweighted(),
    "loss_likelihood": Likelihood(),
}


def point_network(kind, tensors):
    """One of the two recorded networks."""
    if kind == "mlp":
        network = PointScore(4, 2, width=16, log_time=False)
    else:
        network = PointResNet(4, 2, width=16, num_layers=3)
    network.load_state_dict(official_points(tensors))
    return network


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("source", ["cifar/mlp", "cifar/resnet", "celeba_post/mlp", "image"])
def test_recorded_perturbations(source, objective):
    file = below(golden_cld("b_perturb_loss"), f"{source}/")
    part = below(file, f"{objective}/")
    process = CLD(**SETTINGS[source.split("/")[0].replace("image", "cifar")])
    method = CLDSGM(nn.Identity(), process, objective=OBJECTIVES[objective])
    kernel = method.parametrisation.kernel(process, part["t"])
    u_0 = torch.stack([file["x0"], part["v0"]], 1).double()
    eps = part["eps"].double().unflatten(1, (2, -1))
    close(act(kernel.mean_matrix, u_0).flatten(1, 2), part["mean"], rtol=0, atol=1e-11)
    close(kernel.sample(u_0, eps).flatten(1, 2), part["u_t"], rtol=0, atol=1e-11)
    ell = 1 / kernel.chol()[:, 1, 1]
    close(-ell.float(), part["noise_multiplier_f32"], rtol=1e-6)
    target = -ell.view(-1, *[1] * (eps.dim() - 2)) * part["target_eps_v"]
    close(target, part["score_target"], rtol=1e-6)
    assert torch.equal(part["target_eps_v"], part["eps"].unflatten(1, (2, -1))[:, 1])


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("mixed", [0, 1])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ["mlp", "resnet"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_recorded_losses(setting, kind, objective, mixed, weight):
    """Sums over the dimensions of each datum, one sample at a time."""
    file = below(golden_cld("b_perturb_loss"), f"{setting}/{kind}/")
    part = below(file, f"{objective}/")
    process = CLD(**SETTINGS[setting])
    method = CLDSGM(
        point_network(kind, below(file, "net/")),
        process,
        objective=OBJECTIVES[objective],
        mixed_score=bool(mixed),
        weight=WEIGHTS[weight],
    )
    spread = process.initial_cov()[1, 1].sqrt()
    found = []
    for i in range(len(part["t"])):
        one = slice(i, i + 1)
        draws = [uniform_of(part["t"][one]), part["eps"][one]]
        if objective == "dsm":
            draws.insert(1, part["v0"][one].double() / spread)
        rng = Replay(*draws)
        found.append(method.loss(file["x0"][one], None, "score", rng, 0).total.detach())
        assert not rng.draws
    close(torch.stack(found).float(), part[f"mixed{mixed}/{weight}"])


# ----------------------------------------------------------------- recorded training


def repeat_training(file, initial):
    """Three recorded steps from given weights: network, losses, rates, the authors' average.

    Their average starts at the initial weights and decays by (1 + n) / (10 + n) at update
    n = 1, 2, ...; ``EMA`` copies at its first update and uses the same decays one update later.
    """
    network = PointScore(4, 2, width=16, log_time=False)
    network.load_state_dict(initial)
    method = CLDSGM(network, CLD(**SETTINGS["cifar"]))
    recipe = Adam(1e-3, warmup_images=4 * 6, clip_norm=1.0)
    optimizer = recipe.build(network.parameters())
    shadow = [p.detach().clone() for p in network.parameters()]
    losses, rates = [], []
    for i in range(3):
        rng = Replay(uniform_of(file[f"t{i}"]), file[f"eps{i}"])
        loss = method.loss(file[f"x{i}"], None, "score", rng, i).total
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        rates.append(recipe.rate(6 * i))
        optimizer.param_groups[0]["lr"] = rates[-1]
        optimizer.step()
        decay = min(0.999, (2 + i) / (11 + i))
        weights = [p.detach() for p in network.parameters()]
        shadow = [decay * a + (1 - decay) * b for a, b in zip(shadow, weights, strict=True)]
        losses.append(loss.detach())
    return network, losses, rates, shadow


@pytest.fixture(scope="module")
def trace():
    """The recorded steps, repeated.

    The file's ``init`` holds the final weights once more, so the initial ones are those that
    training takes to the final ones, found by iteration; losses and average then test them.
    """
    file = below(golden_cld("b_perturb_loss"), "train3/")
    final, initial = (official_points(below(file, part)) for part in ("final/", "init/"))
    assert all(torch.equal(initial[name], value) for name, value in final.items())
    for _ in range(12):
        network, losses, rates, shadow = repeat_training(file, initial)
        reached = network.state_dict()
        initial = {name: initial[name] + final[name] - reached[name] for name in final}
    return file, network, losses, rates, shadow


def test_recorded_training_losses_and_rates(trace):
    file, _, losses, rates, _ = trace
    for i in range(3):
        close(losses[i].float(), file[f"loss{i}"])
        assert rates[i] == pytest.approx(float(file[f"lr{i}"]), rel=1e-12)
    assert rates[0] == 0.0


def test_recorded_weights_and_average_after_training(trace):
    file, network, _, _, shadow = trace
    expected = official_points(below(file, "final/"))
    for name, value in network.state_dict().items():
        close(value, expected[name], rtol=0, atol=1e-6)
    for i, value in enumerate(shadow):
        close(value, file[f"ema/{i}"], rtol=0, atol=1e-6)


# --------------------------------------------------------------- minima, in closed form


class Oracle(nn.Module):
    """The best prediction of the noise of Gaussian data N(0, data_var), plus ``shift`` times u.

    With C the covariance of u, E[eps | u] = L^T C^-1 u.
    """

    num_classes, event_shape = 0, (1,)

    def __init__(self, process, kernel, data_var, blocks):
        super().__init__()
        self.process, self.kernel, self.data_var, self.blocks = process, kernel, data_var, blocks
        self.shift = nn.Parameter(torch.zeros(len(range(2)[blocks]), process.num_blocks))

    def law(self, t):
        """Factor of the noise and covariance of the state, for data with their own spread."""
        full, chol = self.process.marginal(t), self.kernel(t).chol()
        signal = full.mean_matrix[..., :1]
        return chol, self.data_var * signal @ signal.mT + full.cov

    def forward(self, u, t, code=None, label=None):
        chol, cov = self.law(t.double())
        best = (chol.mT @ torch.linalg.inv(cov))[:, self.blocks] + self.shift
        return (best @ u.double()[..., None])[..., 0]


def gaussian_method(process, objective, weight, data_var):
    """A method whose network is the oracle."""
    if objective == "eps":
        method = DDPM(nn.Identity(), process, weight=weight)
    else:
        method = CLDSGM(
            nn.Identity(), process, objective=objective, mixed_score=False, weight=weight
        )
    blocks = method.parametrisation.output_blocks(process)
    blocks = slice(blocks.start, min(blocks.stop, process.num_blocks))
    method.network = Oracle(
        process, lambda t: method.parametrisation.kernel(process, t), data_var, blocks
    )
    return method


def by_hand(weight, process, t, chol):
    """W(t) from the factor of the kernel that the noise belongs to."""
    diffusion = process.diffusion_matrix(t)
    if isinstance(weight, UniformWeight):
        return torch.eye(process.num_blocks, dtype=torch.float64).expand_as(diffusion)
    root = torch.linalg.solve(chol, diffusion) if isinstance(weight, Likelihood) else diffusion
    return root @ root.mT / 2


PROBLEMS = [
    (VP(), "eps"),
    (SubVP(), "eps"),
    (VE(0.1, 5.0), "eps"),
    (GeometricVP(), "eps"),
    (CLD(), "eps"),
    (CLD(), "hybrid"),
    (CLD(0.1, 7.0), "hybrid"),
    (CLD(), "denoising"),
]


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=name_of)
@pytest.mark.parametrize(("process", "objective"), PROBLEMS)
def test_the_loss_of_gaussian_data_has_its_minimum_at_their_noise(process, objective, weight):
    """Zero gradient, and the value E tr W (I - L^T C^-1 L).

    A loss quadratic in data and noise is averaged exactly by all signs of their deviations.
    """
    data_var, num = 0.4, 50
    method = gaussian_method(process, objective, weight, data_var)
    count = 1 + process.num_blocks + (objective == "denoising")
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=count)), dtype=torch.float64)
    r = ((torch.arange(num, dtype=torch.float64) + 0.5) / num).repeat_interleave(len(signs))
    signs = signs.repeat(num, 1)
    x0 = data_var**0.5 * signs[:, :1]
    draws = [signs[:, 1:2]] if objective == "denoising" else []
    eps = signs[:, -process.num_blocks :]
    loss = method.loss(x0, None, "score", Replay(r, *draws, eps), 0)
    loss.total.backward()

    t = T_MIN + (1 - T_MIN) * r[:: len(signs) // num]
    chol, cov = method.network.law(t)
    identity = torch.eye(process.num_blocks, dtype=torch.float64)
    rest = identity - chol.mT @ torch.linalg.solve(cov, chol)
    blocks = method.network.blocks
    matrix = by_hand(weight, process, t, chol)
    value = (matrix[:, blocks, blocks] * rest[:, blocks, blocks]).sum((1, 2)).mean()
    close(loss.total.detach().double(), value, rtol=1e-5)
    slope = (matrix[:, blocks, blocks].abs().sum((1, 2)) * cov.abs().amax((1, 2))).mean()
    assert (method.network.shift.grad.abs() < 1e-6 * slope).all()


def test_the_mixed_score_of_gaussian_data_needs_no_network():
    class Nothing(nn.Module):
        num_classes, event_shape = 0, (3,)

        def forward(self, u, t, code=None, label=None):
            return torch.zeros_like(u)

    x0 = 0.4**0.5 * torch.randn(20_000, 3, dtype=torch.float64)
    method = DDPM(Nothing(), mixed_score=True, data_var=0.4)
    rng = BatchRng(0, len(x0))
    loss = float(method.loss(x0, None, "score", rng, 0).total)
    t = torch.linspace(T_MIN, 1, 2001, dtype=torch.float64)
    kernel = method.process.marginal(t)
    signal = 0.4 * kernel.mean_matrix.square()[:, 0, 0]
    expected = 3 * float((signal / (signal + kernel.cov[:, 0, 0])).mean())
    assert loss == pytest.approx(expected, rel=0.05)


def test_edm_minimises_the_weighted_error_of_its_denoiser():
    """E_sigma (sigma^2 + sd^2) / (sigma sd)^2 |D(x0 + sigma n) - x0|^2, D preconditioned."""
    sd, num = 0.5, 64
    network = PointScore(2, width=16, log_time=False)
    method = EDM(network, sigma_data=sd)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, num, 2, generator=generator)
    r = torch.rand(num, generator=generator, dtype=torch.float64)
    loss = method.loss(x0, None, "score", Replay(r, noise), 0).total
    sigma = method.process.sigma(method.proposal.draw(method.process, r, method.t_min).t)
    s = sigma.float()[:, None]
    x = x0 + s * noise
    total = s.square() + sd**2
    inner = network(x / total.sqrt(), s[:, 0].log() / 4)
    denoised = sd**2 / total * x + s * sd / total.sqrt() * inner
    error = (total / (s * sd).square() * (denoised - x0).square()).sum(1).mean()
    close(loss, error, rtol=1e-4)


# ------------------------------------------------------------------- choices and labels


class Recorder(nn.Module):
    """A conditional network that keeps the labels that it was given."""

    event_shape = (2,)

    def __init__(self, num_classes=5):
        super().__init__()
        self.num_classes, self.labels = num_classes, None
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, u, t, code=None, label=None):
        self.labels = label
        return self.scale * u


def loss_of(method, num=4000, label=None):
    x0 = torch.randn(num, 2)
    return method.loss(x0, label, "score", BatchRng(1, num), 0)


def test_a_share_of_labels_is_dropped():
    label = torch.arange(4000) % 5
    method = DDPM(Recorder(), label_dropout=0.3)
    loss_of(method, label=label)
    dropped = method.network.labels == -1
    assert abs(float(dropped.double().mean()) - 0.3) < 5 * (0.21 / 4000) ** 0.5
    assert torch.equal(method.network.labels[~dropped], label[~dropped])
    assert torch.equal(label, torch.arange(4000) % 5)


def test_labels_are_kept_without_dropout_and_ignored_without_classes():
    label = torch.arange(4000) % 5
    method = DDPM(Recorder())
    loss_of(method, label=label)
    assert torch.equal(method.network.labels, label)
    method = DDPM(Recorder(0))
    loss_of(method, label=label)
    assert method.network.labels is None


def test_a_network_with_classes_needs_labels():
    with pytest.raises(ConfigError, match="labels"):
        loss_of(DDPM(Recorder()))


@pytest.mark.parametrize("pairing", ["independent", "antithetic", "stratified"])
def test_times_are_paired_as_asked(pairing):
    class Asked(BatchRng):
        def uniform(self, pairing="independent"):
            self.pairing = pairing
            return super().uniform(pairing)

    rng = Asked(0, 8)
    DDPM(Recorder(0), pairing=pairing).loss(torch.randn(8, 2), None, "score", rng, 0)
    assert rng.pairing == pairing


def test_denoising_draws_a_velocity_of_its_variance():
    process = CLD(mass=0.25, init_velocity_scale=0.36)
    x0 = torch.randn(20_000, 2)
    for objective, variance in (("hybrid", 0.0), ("denoising", 0.09)):
        method = CLDSGM(PointScore(4, 2), process, objective=objective)
        u_0 = method.start(x0, BatchRng(0, len(x0)))
        assert torch.equal(u_0[:, 0], x0)
        assert float(u_0[:, 1].var()) == pytest.approx(variance, rel=0.05)
        assert method.default_sampler == ("gddim" if objective == "hybrid" else "sscs")


def test_defaults():
    assert isinstance(DDPM(Recorder(0)).process, VP)
    assert EDM(Recorder(0)).process.clock == "linear"
    assert CLDSGM(PointScore(4, 2)).process.is_critical
    for method in (DDPM(Recorder(0)), CLDSGM(PointScore(4, 2))):
        assert isinstance(method.weight, UniformWeight)
        assert isinstance(method.proposal, UniformTimes)


def test_the_event_is_the_share_of_one_block():
    assert CLDSGM(PointScore(4, 2)).event_shape == (2,)
    assert DDPM(PointScore(2)).event_shape == (2,)
    with pytest.raises(ConfigError, match="3 channels"):
        _ = CLDSGM(PointScore(3, 2)).event_shape


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: DDPM(Recorder(), t_min=0.0), "t_min"),
        (lambda: DDPM(Recorder(), t_min=1.0), "t_min"),
        (lambda: DDPM(Recorder(), label_dropout=1.0), "label_dropout"),
        (lambda: DDPM(Recorder(), label_dropout=-0.1), "label_dropout"),
        (lambda: DDPM(Recorder(0), label_dropout=0.1), "num_classes"),
        (lambda: DDPM(Recorder(), CLD(), predict="x0"), "CLD"),
        (lambda: EDM(Recorder(), sigma_data=0.0), "sigma_data"),
        (lambda: EDM(Recorder(), log_std=0.0), "log_std"),
        (lambda: CLDSGM(Recorder(), VP()), "VP"),
        (lambda: unchecked(CLDSGM, Recorder(), objective="both"), "objective='both'"),
    ],
)
def test_errors_name_the_argument(make, name):
    with pytest.raises(ConfigError, match=name):
        make()
