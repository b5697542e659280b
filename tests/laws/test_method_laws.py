"""Laws of every method: phases, gradients, state, overfitting."""

import inspect

import pytest
import torch
from test_latent_likelihood import RoundLaw
from torch import nn

from trilemma.autoencoders import Autoencoder, Normal
from trilemma.methods import (
    CLDSGM,
    DDGAN,
    DDPM,
    EDM,
    LSGM,
    VAE,
    Importance,
    KLSchedule,
    Likelihood,
    Loss,
    Method,
)
from trilemma.networks import MixedScore, PointDiscriminator, PointGenerator, PointScore
from trilemma.rng import BatchRng


class PointVAE(Autoencoder):
    """Points in the plane behind three latents, with a running mean that evaluation uses."""

    event_shape, latent_shape = (2,), (3,)

    def __init__(self, width=32):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(2, width), nn.BatchNorm1d(width), nn.SiLU(), nn.Linear(width, 6)
        )
        self.decoder = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 2))

    def encode(self, x):
        mean, log_std = self.encoder(x).chunk(2, dim=1)
        return Normal(mean, log_std - 1)

    def decode(self, z, others=()):
        return RoundLaw(self.decoder(z), 0.3)


def ddgan():
    return DDGAN(PointGenerator(width=32), PointDiscriminator(width=32), num_steps=2)


def ddpm():
    return DDPM(PointScore(2, width=32, num_layers=3))


def edm():
    """A network that sees ln(sigma) / 4 as its time, of either sign."""
    return EDM(PointScore(2, width=32, num_layers=3, log_time=False))


def cld():
    return CLDSGM(PointScore(4, 2, width=32, num_layers=3))


def vae():
    return VAE(PointVAE(), KLSchedule(0.5, 1.0, steps=10, balance=True), penalty=1e-3)


def lsgm():
    """One pass for both, with a mixed score."""
    prior = DDPM(MixedScore(PointScore(3, width=32), 3), mixed_score=True, weight=Likelihood())
    return LSGM(PointVAE(), prior, prior_penalty=1e-3)


def lsgm_of_tied_times():
    """One pass for both, each on a weight of its own."""
    return LSGM(PointVAE(), DDPM(PointScore(3, width=32)))


def lsgm_of_two_phases():
    """A weight of its own for the prior, here in latent position and velocity."""
    prior = CLDSGM(PointScore(6, 3, width=32))
    return LSGM(PointVAE(), prior, times=Importance(Likelihood()))


def lsgm_of_a_frozen_autoencoder():
    """A denoising diffusion GAN in latents."""
    generator, discriminator = PointGenerator(3, width=32), PointDiscriminator(3, width=32)
    return LSGM(PointVAE(), DDGAN(generator, discriminator), train_autoencoder=False)


EXAMPLES = [
    ddgan,
    ddpm,
    edm,
    cld,
    vae,
    lsgm,
    lsgm_of_tied_times,
    lsgm_of_two_phases,
    lsgm_of_a_frozen_autoencoder,
]
"""Tiny instances of every method on points in the plane; a new method is added here."""


def concrete(base):
    """Methods of the package; one that others derive from need not stand alone."""
    derived = [cls for cls in base.__subclasses__() if cls.__module__.startswith("trilemma.")]
    if not derived and not inspect.isabstract(base):
        yield base
    for cls in derived:
        yield from concrete(cls)


def test_every_method_has_an_example():
    assert set(concrete(Method)) == {type(make()) for make in EXAMPLES}


@pytest.fixture(params=EXAMPLES, ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture
def method(make):
    torch.manual_seed(0)
    return make()


def parameters_of(method, names):
    return {id(p) for name in names for p in method.get_submodule(name).parameters()}


def test_phases_name_networks_and_cover_all_parameters(method):
    """What no phase trains is kept as it is, for sampling."""
    names = {name for phase in method.phases.values() for name in phase}
    assert set(method.averaged) <= names
    everything = {id(p) for p in method.parameters()}
    assert parameters_of(method, [*names, *method.kept]) == everything
    if not method.kept or getattr(method, "train_autoencoder", True):
        assert parameters_of(method, names) == everything
    else:
        assert not parameters_of(method, names) & parameters_of(method, method.kept)


def test_optimisers_share_the_networks_of_a_phase_out(method):
    stepped = list(method.optimizer_networks().values())
    for names in method.phases.values():
        within = [name for group in stepped if set(group) <= set(names) for name in group]
        assert sorted(within) == sorted(names)


def test_losses_are_finite_scalars_with_detached_parts(method):
    for phase in method.phases:
        method.train_only(phase)
        loss = method.loss(torch.randn(8, 2), None, phase, BatchRng(0, 8), 0)
        assert isinstance(loss, Loss)
        assert loss.total.shape == ()
        assert torch.isfinite(loss.total)
        assert loss.parts
        assert not any(part.requires_grad for part in loss.parts.values())


def test_gradients_reach_the_networks_of_the_phase_alone(method):
    for phase, names in method.phases.items():
        method.zero_grad(set_to_none=True)
        method.train_only(phase)
        method.loss(torch.randn(8, 2), None, phase, BatchRng(0, 8), 0).total.backward()
        trained = parameters_of(method, names)
        for parameter in method.parameters():
            assert (parameter.grad is not None) == (id(parameter) in trained)


def test_a_loss_is_a_function_of_data_and_noise(method):
    x0 = torch.randn(8, 2)
    for phase in method.phases:
        totals = [method.loss(x0, None, phase, BatchRng(s, 8), 0).total for s in (0, 0, 1)]
        assert torch.equal(totals[0], totals[1])
        assert not torch.equal(totals[0], totals[2])


def test_state_round_trips(method, make):
    other = make()
    other.load_state_dict(method.state_dict())
    x0 = torch.randn(8, 2)
    for phase in method.phases:
        totals = [m.loss(x0, None, phase, BatchRng(0, 8), 0).total for m in (method, other)]
        assert torch.equal(*totals)


def test_sampling_state_is_part_of_the_state(method):
    state = method.state_dict()
    for name, value in method.sampling_state().items():
        assert torch.equal(state[name], value)
        assert name.startswith(tuple(f"{part}." for part in (*method.averaged, *method.kept)))


def test_grid_and_denoiser_fit_together(method):
    method.eval()
    grid = method.grid()
    assert len(grid) == method.default_steps + 1
    assert (grid.diff() < 0).all()
    denoiser = method.denoiser()
    u = torch.randn(3, method.process.num_blocks, *method.state_shape)
    with torch.no_grad():
        x0 = denoiser.x0(u, grid[0], BatchRng(0, 3))
    assert x0.shape == u.shape
    assert x0.dtype == u.dtype
    assert denoiser.nfe == 1


def test_data_go_to_states_and_back(method):
    """The shapes fit, and a datum's code does not depend on its neighbours."""
    method.eval()
    data = torch.randn(5, *method.event_shape)
    with torch.no_grad():
        z = method.encode(data, BatchRng(0, 5))
        back = method.decode(z, BatchRng(0, 5))
        alone = method.encode(data[:1], BatchRng(0, 1, num_shards=5))
    assert z.shape[1:] == method.state_shape
    assert back.shape == data.shape
    torch.testing.assert_close(alone, z[:1])


def test_each_phase_can_overfit_one_batch(method):
    """With data and noise fixed, every phase drives its own loss down."""
    x0 = torch.randn(32, 2)
    for phase, names in method.phases.items():
        method.train_only(phase)
        weights = [p for name in names for p in method.get_submodule(name).parameters()]
        optimizer = torch.optim.Adam(weights, 5e-3)
        totals = []
        for _ in range(60):
            loss = method.loss(x0, None, phase, BatchRng(0, 32), 0)
            totals.append(loss.total.item())
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
        assert totals[-1] < 0.8 * totals[0], phase
