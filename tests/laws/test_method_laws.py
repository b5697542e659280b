"""Laws of every method: phases, gradients, state, overfitting."""

import pytest
import torch

from trilemma.methods import CLDSGM, DDGAN, DDPM, EDM, Loss, Method
from trilemma.networks import PointDiscriminator, PointGenerator, PointScore
from trilemma.rng import BatchRng


def ddgan():
    return DDGAN(PointGenerator(width=32), PointDiscriminator(width=32), num_steps=2)


def ddpm():
    return DDPM(PointScore(2, width=32, num_layers=3))


def edm():
    """A network that sees ln(sigma) / 4 as its time, of either sign."""
    return EDM(PointScore(2, width=32, num_layers=3, log_time=False))


def cld():
    return CLDSGM(PointScore(4, 2, width=32, num_layers=3))


EXAMPLES = {DDGAN: ddgan, DDPM: ddpm, EDM: edm, CLDSGM: cld}
"""A tiny instance of every method on points in the plane; a new method is added here."""


def concrete(base):
    """Methods of the package; one without a sampler is a base of others."""
    for cls in base.__subclasses__():
        if cls.__module__.startswith("trilemma.") and hasattr(cls, "default_sampler"):
            yield cls
        yield from concrete(cls)


def test_every_method_has_an_example():
    assert set(concrete(Method)) == set(EXAMPLES)


@pytest.fixture(params=EXAMPLES.values(), ids=[c.__name__ for c in EXAMPLES])
def method(request):
    torch.manual_seed(0)
    return request.param()


def test_phases_name_networks_and_cover_all_parameters(method):
    names = {name for phase in method.phases.values() for name in phase}
    assert set(method.averaged) <= names
    trained = {id(p) for name in names for p in getattr(method, name).parameters()}
    assert trained == {id(p) for p in method.parameters()}


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
        trained = {id(p) for name in names for p in getattr(method, name).parameters()}
        for parameter in method.parameters():
            assert (parameter.grad is not None) == (id(parameter) in trained)


def test_a_loss_is_a_function_of_data_and_noise(method):
    x0 = torch.randn(8, 2)
    for phase in method.phases:
        totals = [method.loss(x0, None, phase, BatchRng(s, 8), 0).total for s in (0, 0, 1)]
        assert torch.equal(totals[0], totals[1])
        assert not torch.equal(totals[0], totals[2])


def test_state_round_trips(method):
    other = EXAMPLES[type(method)]()
    other.load_state_dict(method.state_dict())
    x0 = torch.randn(8, 2)
    for phase in method.phases:
        totals = [m.loss(x0, None, phase, BatchRng(0, 8), 0).total for m in (method, other)]
        assert torch.equal(*totals)


def test_sampling_state_is_part_of_the_state(method):
    state = method.state_dict()
    for name, value in method.sampling_state().items():
        assert torch.equal(state[name], value)
        assert name.split(".")[0] in method.averaged


def test_grid_and_denoiser_fit_together(method):
    method.eval()
    grid = method.grid()
    assert len(grid) == method.default_steps + 1
    assert (grid.diff() < 0).all()
    denoiser = method.denoiser()
    u = torch.randn(3, method.process.num_blocks, *method.event_shape)
    with torch.no_grad():
        x0 = denoiser.x0(u, grid[0], BatchRng(0, 3))
    assert x0.shape == u.shape
    assert x0.dtype == u.dtype
    assert denoiser.nfe == 1


def test_each_phase_can_overfit_one_batch(method):
    """With data and noise fixed, every phase drives its own loss down."""
    x0 = torch.randn(32, 2)
    for phase, names in method.phases.items():
        method.train_only(phase)
        weights = [p for name in names for p in getattr(method, name).parameters()]
        optimizer = torch.optim.Adam(weights, 5e-3)
        totals = []
        for _ in range(60):
            loss = method.loss(x0, None, phase, BatchRng(0, 32), 0)
            totals.append(loss.total.item())
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
        assert totals[-1] < 0.8 * totals[0], phase
