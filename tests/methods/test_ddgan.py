"""Denoising diffusion GANs: recorded training, the penalty, exactness with a perfect generator."""

import math

import pytest
import torch
from oracles import (
    BasisRng,
    ConstantDiscriminator,
    ExactGenerator,
    GaussianData,
    Langevin,
    ReplayRng,
    affine_law,
    below,
    golden,
    golden_config,
)

from trilemma.checkpoints.official_ddgan import (
    discriminator_links,
    export_state,
    generator_links,
    load_discriminator,
    load_generator,
)
from trilemma.errors import ConfigError
from trilemma.methods import DDGAN
from trilemma.networks import (
    Discriminator,
    NCSNpp,
    PointDiscriminator,
    PointGenerator,
    StridedDiscriminator,
)
from trilemma.processes import VP, uniform_grid
from trilemma.rng import BatchRng
from trilemma.training import EMA, Adam

PHASES = ("discriminator", "generator")


def points(num_steps=4, **options):
    return DDGAN(
        PointGenerator(width=16, num_layers=1),
        PointDiscriminator(width=16, num_layers=1),
        num_steps=num_steps,
        **options,
    )


# ------------------------------------------------------------------ golden pairs


@pytest.mark.parametrize("num_steps", [2, 4, 8])
def test_recorded_pairs_and_posterior_draws(num_steps):
    file = below(golden("diffusion"), f"T{num_steps}/")
    method = DDGAN(PointGenerator(), num_steps=num_steps)
    step = file["t"]

    marginal = method.marginal(step).sample(file["x0"][:, None], file["q_sample/noise"][:, None])
    torch.testing.assert_close(marginal[:, 0], file["q_sample/out"], rtol=2e-6, atol=2e-6)

    rng = ReplayRng(file["pairs/noise_tp1"], file["pairs/noise_t"])
    u_s, u_t = method.real_pair(file["x0"], step, rng)
    assert not rng.draws
    torch.testing.assert_close(u_s[:, 0], file["pairs/x_t"], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(u_t[:, 0], file["pairs/x_tp1"], rtol=2e-6, atol=2e-6)
    assert torch.equal(u_s[step == 0, 0], file["x0"][step == 0])  # index 0 ends at clean data

    posterior = method.posterior(step)
    x0, u_t = file["posterior/x0_pred"][:, None], file["pairs/x_tp1"][:, None]
    mean = posterior.mean(x0, u_t)
    torch.testing.assert_close(mean[:, 0], file["posterior/mean"], rtol=2e-6, atol=2e-6)
    sample = posterior.sample(x0, u_t, file["posterior/noise"][:, None])
    torch.testing.assert_close(sample[:, 0], file["posterior/sample"], rtol=2e-6, atol=2e-6)
    # The last step adds no noise, whatever the noise is.
    loud = posterior.sample(x0, u_t, 1e6 * file["posterior/noise"][:, None])
    assert torch.equal(loud[step == 0], mean[step == 0])
    assert not torch.equal(loud[step > 0], mean[step > 0])


# --------------------------------------------------------------- recorded training


class Trace:
    """Three recorded training iterations, repeated with this package's own parts."""

    def __init__(self):
        self.file, config = golden("train_trace"), golden_config("train_trace")
        self.config = config
        generator = load_generator(below(self.file, "G_init/"), config["generator"])
        discriminator = load_discriminator(below(self.file, "D_init/"), config["discriminator"])
        self.method = DDGAN(
            generator,
            discriminator,
            VP(0.1, 20.0),
            num_steps=4,
            r1_weight=config["r1_gamma"],
            r1_every=config["lazy_reg"],
        ).train()
        decay = {"decay_images": 10, "final_lr": config["cosine_eta_min"]}
        shared = {"adam_betas": tuple(config["adam_betas"]), "eps": config["adam_eps"], **decay}
        self.recipes = {
            "discriminator": Adam(config["lr_d"], **shared),
            "generator": Adam(config["lr_g"], **shared),
        }
        self.ema = EMA(generator, config["ema_decay"])
        self.networks = {"discriminator": discriminator, "generator": generator}
        self.optimizers = {
            phase: self.recipes[phase].build(self.networks[phase].parameters()) for phase in PHASES
        }

    def rng(self, i, phase):
        part = below(self.file, f"iter{i}/{phase[0].upper()}_")
        return ReplayRng(*(part[k] for k in ("t", "noise_tp1", "noise_t", "z", "noise_post")))

    def run(self, i, phase):
        """One phase of iteration i; returns the loss and the norm of its gradient."""
        self.method.train_only(phase)
        rng = self.rng(i, phase)
        loss = self.method.loss(self.file[f"iter{i}/x0"], None, phase, rng, i)
        assert not rng.draws
        loss.total.backward()
        gradients = {
            name: p.grad.clone()
            for name, p in self.networks[phase].named_parameters()
            if p.grad is not None
        }
        self.optimizers[phase].step()
        self.optimizers[phase].zero_grad(set_to_none=True)
        return loss, gradients


@pytest.fixture(scope="module")
def trace():
    """Run the recorded iterations once and keep what the tests compare."""
    trace = Trace()
    trace.losses, trace.gradients = {}, {}
    for i in range(trace.config["iterations"]):
        for phase in PHASES:
            trace.losses[i, phase], trace.gradients[i, phase] = trace.run(i, phase)
        trace.ema.update(trace.networks["generator"])
    return trace


@pytest.mark.parametrize("i", range(3))
def test_recorded_losses(trace, i):
    expected = below(trace.file, f"iter{i}/")
    loss = trace.losses[i, "discriminator"]
    torch.testing.assert_close(loss.parts["real"][None], expected["errD_real"], rtol=0, atol=2e-5)
    torch.testing.assert_close(loss.parts["fake"][None], expected["errD_fake"], rtol=0, atol=2e-5)
    assert ("r1" in loss.parts) == ("r1_penalty" in expected) == (i % 2 == 0)
    total = expected["errD_real"] + expected["errD_fake"]
    if "r1" in loss.parts:
        torch.testing.assert_close(
            loss.parts["r1"][None], expected["r1_penalty"], rtol=0, atol=2e-5
        )
        total = total + expected["r1_penalty"]
    torch.testing.assert_close(loss.total.detach()[None], total, rtol=0, atol=4e-5)
    total = trace.losses[i, "generator"].total.detach()
    torch.testing.assert_close(total[None], expected["errG"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("i", range(3))
def test_recorded_gradient_norms(trace, i, phase):
    gradients = trace.gradients[i, phase].values()
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    expected = trace.file[f"iter{i}/{phase[0].upper()}_grad_norm_total"]
    torch.testing.assert_close(norm[None], expected, rtol=1e-4, atol=5e-5)


def official(network, values):
    """Tensors named as in the network's state, under their official names."""
    links = generator_links if isinstance(network, NCSNpp) else discriminator_links
    return {
        name: part
        for link in links(network)
        if link.ours in values
        for name, part in link.split(values[link.ours])
    }


def test_recorded_gradients_of_the_first_iteration(trace):
    gradients = official(trace.networks["discriminator"], trace.gradients[0, "discriminator"])
    expected = below(trace.file, "iter0/D_grad/")
    assert set(expected) == set(gradients)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=5e-5, msg=name)
    gradients = official(trace.networks["generator"], trace.gradients[0, "generator"])
    norms = below(trace.file, "iter0/G_grad_norm/")
    assert set(norms) == set(gradients)
    for name, value in norms.items():
        norm = gradients[name].norm().view(value.shape)
        torch.testing.assert_close(norm, value, rtol=1e-3, atol=5e-5, msg=name)


@pytest.mark.parametrize("name", ["G_final", "D_final", "G_ema"])
def test_recorded_weights_after_training(trace, name):
    network = {
        "G_final": trace.networks["generator"],
        "D_final": trace.networks["discriminator"],
        "G_ema": trace.ema.network,
    }[name]
    ours, expected = export_state(network), below(trace.file, f"{name}/")
    assert set(ours) == set(expected)
    moved = 0.0
    for key, value in expected.items():
        if key.endswith("NIN_1.b"):  # zero gradient: Adam follows rounding noise
            continue
        torch.testing.assert_close(ours[key], value, rtol=0, atol=3e-5, msg=key)
        start = trace.file[f"{name[0]}_init/{key}"]
        moved = max(moved, float((value - start).abs().max()))
    assert moved > 1e-4  # the comparison would notice weights that never moved


def test_recorded_intermediate_pairs(trace):
    for i in range(3):
        expected = below(trace.file, f"iter{i}/")
        u_s, u_t = trace.method.real_pair(
            expected["x0"],
            expected["D_t"],
            ReplayRng(expected["D_noise_tp1"], expected["D_noise_t"]),
        )
        torch.testing.assert_close(u_s[:, 0], expected["x_t"], rtol=0, atol=2e-6)
        torch.testing.assert_close(u_t[:, 0], expected["x_tp1"], rtol=0, atol=2e-6)


def test_recorded_learning_rates_after_one_epoch(trace):
    """One of the ten steps of the cosine; rates are functions of the images seen."""
    rates = [trace.recipes[phase].rate(1) for phase in ("generator", "discriminator")]
    expected = trace.file["lr_after_one_epoch"]
    torch.testing.assert_close(torch.tensor(rates), expected, rtol=1e-6, atol=0)


# ------------------------------------------------------------------------ penalty


def penalty_setup(image=False):
    torch.manual_seed(1)
    if image:
        discriminator = Discriminator(1, channels=4, widths=(1,), downs=(False,), embed_dim=8)
        generator = NCSNpp(8, 1, channels=4, channel_mult=(1,), code_dim=2, num_res_blocks=1)
        x0 = torch.randn(4, 1, 8, 8)
    else:
        discriminator, generator = PointDiscriminator(width=16), PointGenerator(width=16)
        x0 = torch.randn(4, 2)
    for parameter in discriminator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return generator, discriminator, x0


@pytest.mark.parametrize("image", [False, True])
def test_penalty_is_on_the_cleaner_real_data_alone(image):
    """gamma / 2 times the batch mean of |d sum(logits) / d u_s|^2, from finite differences."""
    generator, discriminator, x0 = penalty_setup(image)
    method = DDGAN(generator, discriminator, r1_weight=3.0).double()
    x0 = x0.double()
    loss = method.loss(x0, None, "discriminator", BatchRng(3, 4), 0)

    rng = BatchRng(3, 4)
    index = rng.integers(4)
    u_s, u_t = method.real_pair(x0, index, rng)
    flat, h = u_s[:, 0].flatten(1), 1e-6

    def logits(values):
        return discriminator(values.view_as(x0), index, u_t[:, 0], None).sum().detach()

    squares = 0.0
    for i in range(flat.numel()):
        shift = torch.zeros(flat.numel(), dtype=torch.float64)
        shift[i] = h
        slope = (logits(flat + shift.view_as(flat)) - logits(flat - shift.view_as(flat))) / (2 * h)
        squares += float(slope) ** 2
    # Logits are float32 inside the loss, so a few digits are lost there.
    assert float(loss.parts["r1"]) == pytest.approx(3.0 / 2 * squares / 4, rel=1e-4)
    assert squares > 0

    both = u_s[:, 0].requires_grad_(), u_t[:, 0].requires_grad_()
    gradients = torch.autograd.grad(discriminator(both[0], index, both[1], None).sum(), both)
    mutant = sum(g.flatten(1).square().sum(1).mean() for g in gradients) * 1.5
    assert float(loss.parts["r1"]) != pytest.approx(float(mutant), rel=1e-2)


def test_penalty_comes_every_few_steps_and_is_not_multiplied_by_the_interval():
    generator, discriminator, x0 = penalty_setup()
    values = {}
    for every in (1, 3):
        method = DDGAN(generator, discriminator, r1_weight=2.0, r1_every=every)
        for step in range(7):
            loss = method.loss(x0, None, "discriminator", BatchRng(3, 4), step)
            values[every, step] = loss.parts.get("r1")
            rest = loss.parts["real"] + loss.parts["fake"] + loss.parts.get("r1", 0)
            torch.testing.assert_close(loss.total.detach(), rest)
    assert all(values[1, step] is not None for step in range(7))
    assert [step for step in range(7) if values[3, step] is not None] == [0, 3, 6]
    assert torch.equal(values[3, 3], values[1, 3])


def test_penalty_of_weight_zero_is_off():
    generator, discriminator, x0 = penalty_setup()
    method = DDGAN(generator, discriminator, r1_weight=0.0)
    assert "r1" not in method.loss(x0, None, "discriminator", BatchRng(3, 4), 0).parts


def test_penalty_reaches_the_weights():
    generator, discriminator, x0 = penalty_setup()
    gradients = []
    for weight in (0.0, 5.0):
        method = DDGAN(generator, discriminator, r1_weight=weight)
        method.train_only("discriminator")
        discriminator.zero_grad()
        method.loss(x0, None, "discriminator", BatchRng(3, 4), 0).total.backward()
        gradients.append(discriminator.layers[0].weight.grad.clone())
    assert not torch.allclose(gradients[0], gradients[1])


# ------------------------------------------------------------------------- oracles


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_losses_of_an_undecided_discriminator(num_steps):
    """Logit 0 everywhere: the losses are 2 log 2 and log 2, the penalty 0."""
    method = DDGAN(PointGenerator(width=8), ConstantDiscriminator(0.0), num_steps=num_steps)
    x0 = torch.randn(4, 2)
    loss = method.loss(x0, None, "discriminator", BatchRng(0, 4), 0)
    assert loss.total.item() == pytest.approx(2 * math.log(2))
    assert float(loss.parts["r1"]) == 0
    loss = method.loss(x0, None, "generator", BatchRng(0, 4), 0)
    assert loss.total.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("value", [-2.0, 0.5, 3.0])
def test_losses_of_a_constant_discriminator(value):
    method = DDGAN(PointGenerator(width=8), ConstantDiscriminator(value), r1_weight=0.0)
    x0 = torch.randn(4, 2)
    loss = method.loss(x0, None, "discriminator", BatchRng(0, 4), 0)
    assert float(loss.parts["real"]) == pytest.approx(math.log1p(math.exp(-value)))
    assert float(loss.parts["fake"]) == pytest.approx(math.log1p(math.exp(value)))
    loss = method.loss(x0, None, "generator", BatchRng(0, 4), 0)
    assert loss.total.item() == pytest.approx(math.log1p(math.exp(-value)))


def test_the_undecided_discriminator_is_the_optimum_for_a_perfect_generator():
    """Where real and fake pairs have one law, logit 0 is stationary and the minimum."""
    losses = []
    for value in (-0.1, 0.0, 0.1):
        method = DDGAN(PointGenerator(width=8), ConstantDiscriminator(value), r1_weight=0.0)
        loss = method.loss(torch.randn(4, 2), None, "discriminator", BatchRng(0, 4), 0)
        losses.append(loss.total.item())
        (slope,) = torch.autograd.grad(loss.total, method.discriminator.value)
        assert float(slope) == pytest.approx(math.tanh(value / 2), abs=1e-6)
    assert losses[1] < min(losses[0], losses[2])


def pair_laws(method, data, index):
    """Exact laws (mean, covariance) of real and fake pairs (u_s, u_t) at one step."""
    origin, dim = float(method.grid()[-1]), data.dim
    times = method.grid().flip(0)
    factor = torch.linalg.cholesky(data.cov)

    rng = BasisRng(3 * dim)
    x0 = data.mean + rng.normal(dim) @ factor.T
    step = torch.full((len(x0),), index)
    u_s, u_t = method.real_pair(x0, step, rng)
    real = affine_law(torch.cat([u_s, u_t], dim=2))

    mean, cov = data.diffused(method.process, float(times[index + 1]), origin)
    rng = BasisRng(3 * dim)
    u_t = (mean + rng.normal(dim) @ torch.linalg.cholesky(cov).T)[:, None]
    u_s = method.fake(u_t, step, None, rng)
    return real, affine_law(torch.cat([u_s, u_t], dim=2))


def exact_method(num_steps):
    data, process = GaussianData(), VP(0.1, 20.0)
    times = uniform_grid(num_steps).flip(0)
    return DDGAN(ExactGenerator(data, process, times), num_steps=num_steps, process=process), data


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_real_and_fake_pairs_have_one_law_for_a_perfect_generator(num_steps):
    """The statement behind the method, checked exactly: no Monte Carlo, no slack."""
    method, data = exact_method(num_steps)
    for index in range(num_steps):
        (mean, cov), (fake_mean, fake_cov) = pair_laws(method, data, index)
        torch.testing.assert_close(fake_mean, mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(fake_cov, cov, rtol=1e-9, atol=1e-9)


# -------------------------------------------------------------------------- others


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_one_step_of_both_phases(num_steps):
    method = points(num_steps)
    x0 = torch.randn(8, 2)
    for phase in PHASES:
        method.train_only(phase)
        before = {k: v.clone() for k, v in method.state_dict().items()}
        (network,) = method.phase_networks(phase)
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        loss = method.loss(x0, None, phase, BatchRng(0, 8), 0)
        assert torch.isfinite(loss.total)
        loss.total.backward()
        optimizer.step()
        changed = {
            k.split(".")[0] for k, v in method.state_dict().items() if (v != before[k]).any()
        }
        assert changed == {phase}
        other = PHASES[1 - PHASES.index(phase)]
        assert all(p.grad is None for p in method.phase_networks(other)[0].parameters())
        method.zero_grad()


def test_train_only_switches_gradients():
    method = points()
    for phase in PHASES:
        method.train_only(phase)
        for name in PHASES:
            state = {p.requires_grad for p in getattr(method, name).parameters()}
            assert state == {name == phase}


def test_labels_reach_both_networks_and_are_dropped_where_unused():
    generator = NCSNpp(8, 1, channels=4, channel_mult=(1,), code_dim=2, num_classes=3)
    discriminator = Discriminator(
        1, channels=4, widths=(1,), downs=(False,), embed_dim=8, num_classes=3
    )
    method = DDGAN(generator, discriminator)
    assert method.num_classes == 3
    x0, label = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    for phase in PHASES:
        method.train_only(phase)
        loss = method.loss(x0, label, phase, BatchRng(0, 4), 0)
        loss.total.backward()
    with pytest.raises(ConfigError, match="3 classes"):
        method.loss(x0, None, "generator", BatchRng(0, 4), 0)
    plain = points()
    losses = [
        plain.loss(torch.ones(4, 2), given, "generator", BatchRng(0, 4), 0).total
        for given in (label, None)
    ]
    assert torch.equal(*losses)


def test_networks_that_disagree_about_classes_are_refused():
    generator = NCSNpp(8, 1, channels=4, channel_mult=(1,), code_dim=2, num_classes=3)
    discriminator = Discriminator(1, channels=4, widths=(1,), downs=(False,), embed_dim=8)
    with pytest.raises(ConfigError, match="classes"):
        DDGAN(generator, discriminator)


@pytest.mark.parametrize("kind", ["whole", "strided"])
def test_networks_that_disagree_about_channels_are_refused(kind):
    generator = NCSNpp(8, 3, channels=4, channel_mult=(1,), code_dim=2)
    one_channel = {
        "whole": lambda: Discriminator(1, channels=4, widths=(1,), downs=(False,), embed_dim=8),
        "strided": lambda: StridedDiscriminator(8, 1, channels=4),
    }
    with pytest.raises(ConfigError, match="draws 3 channels, the discriminator reads 1"):
        DDGAN(generator, one_channel[kind]())


def test_a_method_for_sampling_refuses_to_train():
    method = DDGAN(PointGenerator(width=8))
    with pytest.raises(ConfigError, match="discriminator"):
        method.loss(torch.zeros(4, 2), None, "generator", BatchRng(0, 4), 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r1_weight": -1.0}, "r1_weight"),
        ({"r1_every": 0}, "r1_every"),
        ({"num_steps": 0}, "num_steps"),
        ({"t_min": 1.5}, "t_min"),
        ({"t_min": -0.1}, "t_min"),
        ({"process": Langevin()}, "one block"),
    ],
    ids=str,
)
def test_errors_name_the_argument(options, words):
    with pytest.raises(ConfigError, match=words):
        DDGAN(PointGenerator(width=8), **options)


def test_other_numbers_of_sampling_steps_are_refused():
    method = points(4)
    assert torch.equal(method.grid(4), method.grid())
    with pytest.raises(ConfigError, match=r"trained on 4 steps.*cannot sample in 3"):
        method.grid(3)


def test_time_other_than_the_grid_is_refused():
    method = points(4)
    denoiser = method.denoiser()
    with pytest.raises(ConfigError, match="denoises at times"):
        denoiser.x0(torch.zeros(2, 1, 2), torch.tensor(0.77, dtype=torch.float64), BatchRng(0, 2))


def test_sampling_state_holds_the_generator_alone():
    method = points()
    names = set(method.sampling_state())
    assert names == {k for k in method.state_dict() if k.startswith("generator.")}
