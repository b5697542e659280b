"""Laws of every sampler: network calls, and samples that do not depend on their batch."""

import pytest
import torch
from oracles import BasisRng, ExactDenoiser, GaussianData, affine_law, examples, name_of

from trilemma.errors import ConfigError
from trilemma.methods import DDGAN
from trilemma.networks import NCSNpp, PointGenerator
from trilemma.processes import VP, uniform_grid
from trilemma.rng import SampleRng
from trilemma.samplers import Sampler
from trilemma.sampling import labels_for, sample_indices

SAMPLERS = examples(Sampler)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_network_calls(sampler, num_steps):
    data, process, grid = GaussianData(), VP(), uniform_grid(num_steps)
    denoiser = ExactDenoiser(data, process, float(grid[-1]))
    rng = SampleRng(0, range(3))
    sampler.run(denoiser, rng.normal(1, data.dim), grid, rng)
    assert denoiser.nfe == sampler.evals_per_step * num_steps


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_a_sampler_is_affine_and_exact_on_gaussian_data(sampler):
    data, process, grid = GaussianData(seed=4), VP(), uniform_grid(4)
    origin = float(grid[-1])
    mean, cov = data.diffused(process, 1.0, origin)
    rng = BasisRng(data.dim * 8)
    u = mean + rng.normal(data.dim) @ torch.linalg.cholesky(cov).T
    end = sampler.run(ExactDenoiser(data, process, origin), u[:, None], grid, rng)
    found_mean, found_cov = affine_law(end)
    torch.testing.assert_close(found_mean, data.mean, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found_cov, data.cov, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_a_sampler_is_pure(sampler):
    """The same call twice on one object gives the same states, and nothing stays on it."""
    data, process, grid = GaussianData(), VP(), uniform_grid(4)
    before, results = dict(vars(sampler)), []
    for _ in range(2):
        rng = SampleRng(0, range(3))
        u = rng.normal(1, data.dim)
        kept = u.clone()
        results.append(sampler.run(ExactDenoiser(data, process, 1e-3), u, grid, rng))
        assert torch.equal(u, kept)
    assert torch.equal(*results)
    assert dict(vars(sampler)) == before


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name_of)
def test_callback_sees_every_state(sampler):
    data, grid, seen = GaussianData(), uniform_grid(4), []
    rng = SampleRng(0, range(3))
    end = sampler.run(
        ExactDenoiser(data, VP(), 1e-3),
        rng.normal(1, data.dim),
        grid,
        rng,
        lambda n, u: seen.append((n, u)),
    )
    assert [n for n, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[-1][1], end)


def method_of(kind):
    torch.manual_seed(0)
    if kind == "points":
        return DDGAN(PointGenerator(width=16, num_layers=1)).eval()
    network = NCSNpp(
        8, 1, channels=4, channel_mult=(1, 1), num_res_blocks=1, code_dim=3, num_classes=3
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return DDGAN(network, num_steps=2).eval()


def draw(method, indices, batch_size=64, **options):
    event = method.event_shape
    batches = sample_indices(method, event, indices, batch_size=batch_size, **options)
    return torch.cat([data for data, _ in batches])


@pytest.mark.parametrize("kind", ["points", "images"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 7])
def test_a_sample_does_not_depend_on_its_batch(kind, batch_size):
    method = method_of(kind)
    whole = draw(method, range(7), seed=3)
    torch.testing.assert_close(
        draw(method, range(7), batch_size, seed=3), whole, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["points", "images"])
def test_a_sample_does_not_depend_on_order_or_offset(kind):
    method = method_of(kind)
    whole = draw(method, range(8), seed=3)
    order = [5, 2, 7, 0]
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(draw(method, order, seed=3), whole[order], **close)
    torch.testing.assert_close(draw(method, range(6, 8), seed=3), whole[6:], **close)
    parts = [draw(method, chunk, seed=3) for chunk in (range(3), range(3, 4), range(4, 8))]
    torch.testing.assert_close(torch.cat(parts), whole, **close)
    assert not torch.allclose(draw(method, range(8), seed=4), whole)
    rows = whole.flatten(1)
    assert not torch.allclose(rows[0], rows[1])


def test_labels_belong_to_samples():
    method = method_of("images")
    labels = [label for _, label in sample_indices(method, (1, 8, 8), range(2, 7), batch_size=2)]
    assert torch.cat(labels).tolist() == [2, 0, 1, 2, 0]
    one = [label for _, label in sample_indices(method, (1, 8, 8), range(4), class_label=1)]
    assert torch.cat(one).tolist() == [1, 1, 1, 1]
    assert labels_for(0, range(3), None) is None


@pytest.mark.parametrize("class_label", [-1, 3, 99])
def test_unknown_class_labels_are_refused(class_label):
    with pytest.raises(ConfigError, match=rf"class_label={class_label} is not in 0\.\.2"):
        labels_for(3, range(2), class_label)


def test_labels_of_an_unconditional_model_are_refused():
    with pytest.raises(ConfigError, match="without labels"):
        labels_for(0, range(2), 0)


def test_progress_counts_samples():
    seen = []
    list(sample_indices(method_of("points"), (2,), range(7), batch_size=3, progress=seen.append))
    assert seen == [3, 3, 1]
