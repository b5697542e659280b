"""Official training steps, flows and samplers of latent score-based models, by our own classes.

Where the two count differently, a conversion is stated: see ``Case``.
"""

import json
import math
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
from oracles import below
from safetensors import safe_open
from scipy.integrate import solve_ivp

from trilemma.checkpoints.links import ncsnpp_links
from trilemma.checkpoints.nvae_links import nvae_links
from trilemma.checkpoints.official_lsgm import build_process, load
from trilemma.denoiser import ScoreDenoiser
from trilemma.likelihood import latent_negative_log_likelihood, negative_log_likelihood
from trilemma.methods import (
    DDPM,
    LSGM,
    Importance,
    KLSchedule,
    Likelihood,
    Proposal,
    Reweighted,
    UniformTimes,
    UniformWeight,
)
from trilemma.methods.weighting import Draw
from trilemma.parametrisation import Predict
from trilemma.samplers import ODE, Ancestral
from trilemma.training import Adam
from trilemma.training.ema import EMA

GOLDEN = Path(__file__).parents[1] / "golden" / "lsgm"
CASES = (
    "joint_llw_is",
    "joint_geometric_kl_anneal",
    "joint_separate_t",
    "joint_unweighted_reweighted_for_q",
    "disjoint_reweighted",
    "prior_only",
)
WEIGHTS = {"ll": Likelihood, "drop_all": UniformWeight, "drop_sigma2t": Reweighted}
PENALTY = 0.01
DECAY = 3e-4
EARLIEST = 1e-9
"""Stands for the published time_eps = 0: our times are positive."""


@cache
def _golden(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["config"])


class Replay:
    """Hands out recorded normal and uniform numbers, each kind in order."""

    def __init__(self, normals, uniforms=()):
        self.normals, self.uniforms = list(normals), list(uniforms)

    def normal(self, *event):
        draw = self.normals.pop(0)
        assert draw[0].numel() == math.prod(event)
        return draw.reshape(len(draw), *event)

    def uniform(self, pairing="independent"):
        return self.uniforms.pop(0).double()

    def integers(self, high):
        raise AssertionError("no integers were recorded")


@pytest.fixture
def double(monkeypatch):
    """Nothing is rounded to float32 on the way: times, and the states that networks see."""
    moved = torch.Tensor.to

    def to(self, *args, **options):
        return moved(self, *(self.dtype if a is torch.float32 else a for a in args), **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)


def networks(model, dtype=torch.float32):
    """The recorded autoencoder and the prior's network."""
    tensors, configs = _golden("objective_models")
    flags = {**configs[model]["vae"], **configs[model]["dae"]}
    autoencoder = load(below(tensors, f"{model}/vae/"), configs[model]["vae"])
    flags["input_size"] = autoencoder.latent_shape[-1]
    prior = load(below(tensors, f"{model}/dae/"), flags)
    if dtype == torch.float64:  # frequencies of time are kept in float32
        embed = prior.network.time.embed
        half = torch.arange(embed.dim // 2, dtype=dtype)
        embed.frequencies = torch.exp(-math.log(10_000) * half / (len(half) - 1))
    return autoencoder.to(dtype), prior.to(dtype)


# ------------------------------------------------------------------------ training


class OfficialNormaliser(Proposal):
    """The official normaliser of drop_all_iw: e^{k/2} where the integral has e^{beta_start k/2}.

    The estimate is 0.2 % too large with it.
    """

    def __init__(self, inner, config):
        k = config["beta_start"] / (config["beta_end"] - config["beta_start"])
        self.inner, self.factor = inner, math.exp(k / 2 - config["beta_start"] * k / 2)

    def draw(self, process, uniform, t_min):
        draw = self.inner.draw(process, uniform, t_min)
        return Draw(draw.t, draw.ratio * self.factor)


class Recording(KLSchedule):
    """Keeps the divergences that it is shown, and its answer."""

    def weights(self, divergences, sizes, step):
        self.seen = divergences.detach().mean(0)
        self.given, self.now = (
            super().weights(divergences, sizes, step),
            self.coefficient(step),
        )
        return self.given


class Case:
    """A recorded training run and the LSGM that it corresponds to.

    Official importance modes integrate over [time_eps, 1], where our prior's loss is the mean. So
    with separate losses the official prior loss, its penalty included, is ``scale`` = 1 - time_eps
    times ours. Our bound integrates in any case. The official joint loss of the autoencoder has
    the prior's penalty besides, which has no gradient there.
    """

    def __init__(self, name, dtype):
        self.file, self.config = _golden(f"objective_{name}")
        config, self.dtype, model = self.config, dtype, self.config["model"]
        mode, data_var = config["iw_sample_p"], 1 - config["sigma2_0"]
        weight, is_importance = WEIGHTS[mode.rsplit("_", 1)[0]](), mode.endswith("_iw")
        proposal = Importance(weight, data_var=data_var) if is_importance else UniformTimes()
        if mode == "drop_all_iw":
            proposal = OfficialNormaliser(proposal, config)
        t_min = config["time_eps"] or EARLIEST
        has_two_losses = is_importance and not isinstance(weight, Likelihood)
        self.scale = 1 - t_min if has_two_losses else 1.0
        self.is_trained = config.get("train_vae", True)
        rises = {"start": 0.7, "steps": config.get("num_total_iter", 0) // 10}
        self.kl = Recording(
            **(rises if config.get("cont_kl_anneal") else {}),
            balance=config.get("kl_balance_vada", False),
        )
        has_times = config.get("iw_sample_q") == "ll_iw"
        autoencoder, network = networks(model, dtype)
        self.method = LSGM(
            autoencoder,
            DDPM(
                network,
                build_process(config),
                mixed_score=True,
                data_var=data_var,
                weight=weight,
                proposal=proposal,
                t_min=t_min,
            ),
            train_autoencoder=self.is_trained,
            times=Importance(Likelihood(), data_var=data_var) if has_times else None,
            averaged_prior=config.get("update_q_ema", False),
            kl=self.kl,
            penalty=PENALTY if self.is_trained else 0.0,
            prior_penalty=PENALTY / self.scale,
            prior_spectral=not config.get("custom_conv_dae", False),
        )
        start = _golden("objective_spectral_init")[0]
        for part, owner in (("vae", autoencoder), ("dae", network)):
            for key, vector in owner.named_buffers():
                if key == "spectral.num_calls":
                    vector.fill_(1)  # four iterations, as from the second step on
                elif key.startswith("spectral."):
                    side = key.removeprefix("spectral.").replace("_", "/")
                    vector.copy_(start[f"{model}/{part}/{side}"])
        self.method.to(dtype).train()
        autoencoder.train()  # officially a frozen one normalises by batches too

    def losses(self, step, ema=None):
        """Losses of all phases, with their gradients on the parameters."""
        inputs = below(self.file, f"step{step}/")
        inputs = {key: value.to(self.dtype) for key, value in inputs.items()}
        x0 = 2 * inputs["x_unit"] - 1
        binarised = [torch.zeros_like(x0)] if self.config["model"] == "bernoulli" else []
        latents = [v for k, v in sorted(inputs.items()) if k.startswith("vae_noise/")]
        self.method.zero_grad()
        found = {}
        for phase in self.method.phases:
            side = "q" if phase == "autoencoder" else "p"
            noise = inputs.get("noise", inputs.get(f"noise_{side}"))
            rng = Replay([*binarised, *latents, noise], [self.file[f"step{step}/rho_{side}"]])
            self.method.train_only(phase)
            at = self.config["first_global_step"] + step
            is_averaged = ema is not None and phase in self.method.averaged_in
            with ema.lend(self.method.prior.network) if is_averaged else nullcontext():
                found[phase] = self.method.loss(x0, None, phase, rng, at)
                found[phase].total.backward()
            assert not rng.normals
            assert not rng.uniforms
        self.method.requires_grad_(True)
        for parameter in self.method.prior.parameters():
            if parameter.grad is not None:
                parameter.grad *= self.scale
        return found

    def official(self, value):
        """Tensors of the parameters under official names, by part, in the official order."""
        network = self.method.prior.network
        parts = {}
        for part, owner, links in (
            ("vae", self.method.autoencoder, nvae_links(self.method.autoencoder)),
            ("dae", network.network, ncsnpp_links(network.network)),
        ):
            own = {link.ours: link for link in links}
            named = [(own[name], p) for name, p in owner.named_parameters() if name in own]
            found = [item for link, p in named for item in link.split(value(p))]
            parts[part] = dict(found)
        parts["dae"]["mixing_logit"] = value(network.mixing_logit)
        parts["dae"] = {name: parts["dae"][name] for name in in_official_order(parts["dae"])}
        return parts

    def recorded(self, *path):
        return self.file["/".join(("f64", *path))]


INSIDE = ("GroupNorm_0", "Conv_0", "Dense_0", "NIN_0", "NIN_1", "NIN_2", "NIN_3")
INSIDE += ("GroupNorm_1", "Conv_1", "Conv_2")


def in_official_order(names):
    """Names of the prior's parameters as the official network lists them."""

    def position(name):
        _, number, *inside, kind = name.split(".")
        return int(number), [INSIDE.index(x) for x in inside], kind in ("bias", "b")

    return ["mixing_logit", *sorted(set(names) - {"mixing_logit"}, key=position)]


def test_the_order_of_official_parameters():
    order = json.loads((GOLDEN / "state_dicts" / "lsgm_mnist.json").read_text())
    assert in_official_order(order["dae"]) == order["dae_parameter_order"]


def gradient(parameter):
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def check_gradients(case, step, rtol):
    """Norms of all gradients, and some whole ones."""
    for part, gradients in case.official(gradient).items():
        if part == "vae" and not case.is_trained:
            assert not any(bool(value.any()) for value in gradients.values())
            continue
        ours = torch.stack([value.double().norm() for value in gradients.values()])
        theirs = case.recorded(f"step{step}", "grad_norm", part)
        assert len(ours) == len(theirs)
        # Biases before a batch norm have no gradient but rounding.
        error = (ours - theirs).abs() / theirs.clamp(min=1e-3 * float(theirs.max()))
        worst = int(error.argmax())
        assert float(error[worst]) < rtol, (part, list(gradients)[worst], float(error[worst]))
        whole = below(case.file, f"f64/step{step}/grad/{part}/")
        assert (len(whole) > 0) == (step == case.config["steps"] - 1)
        for name, value in whole.items():
            error = (gradients[name].double() - value).abs().max() / value.abs().max()
            assert float(error) < rtol, (part, name, float(error))


def check_losses(case, found, step, rtol):
    """The scalars that the official code goes back from, and what it logs at step 199."""

    def equal(ours, *path):
        theirs = case.recorded(*path)
        torch.testing.assert_close(
            torch.as_tensor(ours).double(), theirs.double(), rtol=rtol, atol=0
        )

    parts = {k: v for loss in found.values() for k, v in loss.parts.items()}
    prior_penalty = case.scale * parts["prior_penalty"]
    bound = next(iter(found.values()))
    if case.is_trained:
        own = bound.parts["reconstruction"] + case.kl.now * (case.kl.given * case.kl.seen).sum()
        both = own + parts["penalty"]
        is_joint = case.config["algorithm"] == "joint"
        equal(both + prior_penalty if is_joint else both, f"step{step}", "q_loss_backward")
    if "prior" in found:
        equal(case.scale * found["prior"].total.detach(), f"step{step}", "p_loss_backward")
    elif "p_loss" in case.config["loss_names"]:  # tied: both losses in one
        rest = bound.total.detach() - both
        equal(case.scale * rest, f"step{step}", "p_loss_backward")
    else:
        equal(bound.total.detach(), f"step{step}", "q_loss_backward")
    if "f64/log/train/q_loss" not in case.file:
        return
    penalties = {"dae": prior_penalty, "vae": parts.get("penalty", torch.tensor(0.0))}
    for part, penalty in penalties.items():
        pieces = [case.recorded("log", "train", f"{kind}_loss_{part}") for kind in ("norm", "bn")]
        torch.testing.assert_close(penalty.double(), PENALTY * sum(pieces), rtol=rtol, atol=0)
    if case.is_trained:
        equal(case.kl.now, "log", "train", "kl_coeff")
        equal(own, "log", "train", "q_loss")
        equal(parts["reconstruction"], "log", "epoch", "vae_recon")
        for i, (value, weight) in enumerate(zip(case.kl.seen, case.kl.given, strict=True)):
            equal(value, "log", "kl_value", f"group_{i}")
            equal(weight, "log", "kl_coeff_step", f"layer_{i}")


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_training_step(name, double):
    case = Case(name, torch.float64)
    found = case.losses(0)
    starts_at_zero = not case.config["time_eps"]
    # The reference has log(2 pi) / 2 to ten digits in the groups without a learned prior.
    check_losses(case, found, 0, 1e-8 if starts_at_zero else 1e-10)
    check_gradients(case, 0, 1e-6 if starts_at_zero else 1e-12)
    check_update(case)


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_training_step_in_single_precision(name):
    case = Case(name, torch.float32)
    check_losses(case, case.losses(0), 0, 2e-5)
    check_gradients(case, 0, 1e-4)


def descend(case, optimizers):
    """One official update: Adam with coupled decay, which ours never has; it is added by hand."""
    with torch.no_grad():
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = gradient(parameter) + DECAY * parameter
            optimizer.step()


def optimizers_of(case):
    """Ours, at the recorded rates."""
    config, method = case.config, case.method
    rate = {
        "vae": config.get("learning_rate_vae", 1e-4),
        "dae": config.get("learning_rate_dae", 3e-4),
    }
    parts = [(method.prior.network, Adam(rate["dae"], eps=1e-4))]
    if case.is_trained:
        parts.append((method.autoencoder, Adam(rate["vae"], eps=1e-3)))
    return [adam.build(network.parameters()) for network, adam in parts]


def check_update(case):
    """Parameters after the official update."""
    descend(case, optimizers_of(case))
    after, compared = case.official(torch.Tensor.detach), 0
    for part, values in after.items():
        for name, value in below(case.file, f"f64/after_adam/{part}/").items():
            torch.testing.assert_close(values[name], value, rtol=0, atol=1e-9, msg=name)
            compared += 1
    assert compared >= 2


def test_two_recorded_steps_with_averages(double):
    """From the second step on the official autoencoder sees the prior's averages.

    These start as the weights after the first step, so in two steps there is no difference.
    """
    case = Case("disjoint_ema_two_steps", torch.float64)
    optimizers = optimizers_of(case)
    ema = EMA(case.method.prior.network, case.config["ema_decay"])
    for step in range(2):
        check_losses(case, case.losses(step, ema), step, 1e-8)
        if step == 1:  # what is recorded as norms of step 0 are those of step 1 again
            check_gradients(case, step, 1e-6)
        descend(case, optimizers)
        ema.update(case.method.prior.network)
    after = case.official(torch.Tensor.detach)
    for part, values in after.items():
        for name, value in below(case.file, f"f64/after_adam/{part}/").items():
            torch.testing.assert_close(values[name], value, rtol=0, atol=1e-7, msg=name)
    averages = below(case.file, "f64/after_ema/dae/")
    torch.testing.assert_close(
        ema.network.mixing_logit, averages["mixing_logit"], rtol=0, atol=1e-7
    )
    stem = ema.network.network.stem.weight
    torch.testing.assert_close(stem, averages["all_modules.2.weight"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("t_min", [1e-6, 1e-9])
def test_a_positive_time_stands_for_zero(t_min, double, monkeypatch):
    """The loss is continuous at t = 0 where a process starts with a variance."""
    monkeypatch.setattr("test_golden_lsgm.EARLIEST", t_min)
    case = Case("joint_geometric_kl_anneal", torch.float64)
    check_losses(case, case.losses(0), 0, {1e-6: 1e-5, 1e-9: 1e-8}[t_min])
    check_gradients(case, 0, {1e-6: 1e-3, 1e-9: 1e-6}[t_min])


# ------------------------------------------------------------------- flow and its solver

SDES = _golden("ode")[1]["sdes"]


class Double(ScoreDenoiser):
    """A denoiser whose network is called in float64."""

    def _call(self, joined, times, extra):
        return super()._call(joined, torch.full_like(joined[:, 0, 0, 0], self.time), extra)

    def output(self, u, t):
        self.time = float(t)
        return super().output(u, t)


def denoiser(name, dtype=torch.float64):
    """The recorded model under one of the recorded processes."""
    config = SDES[name]
    process = build_process(config)
    prediction = Predict("eps", mixed_score=True, data_var=1 - config["sigma2_0"])
    network = networks("bernoulli", dtype)[1].requires_grad_(False)
    kind = Double if dtype == torch.float64 else ScoreDenoiser
    return kind(network, process, prediction)


def recorded_flow(name):
    file = _golden("ode")[0]
    return below(file, f"{name}/f64/"), file["noise"].double()[:, None]


@pytest.mark.parametrize("name", SDES)
def test_the_recorded_flow(name, double):
    expected, noise = recorded_flow(name)
    flow = denoiser(name)
    for i, t in enumerate(_golden("ode")[0]["trajectory_t"].double()):
        slope = flow.flow(noise, float(t))[:, 0]
        theirs = expected["tol_1e-05/rhs_at_t"][i]
        torch.testing.assert_close(slope, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", SDES)
def test_the_recorded_divergence(name, double):
    expected, noise = recorded_flow(name)
    flow = denoiser(name)

    def slope(z):
        return flow.flow(z.view_as(noise[:1]), 0.3).flatten()

    jacobian = torch.func.jacrev(slope, chunk_size=128)(noise[0].flatten())
    theirs = expected["exact_divergence_t_0.9_0.3_0.01"][1]
    torch.testing.assert_close(jacobian.trace(), theirs, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("tolerance", ["0.01", "1e-05"])
def test_the_recorded_solver_on_our_flow(name, tolerance, double):
    """With the official solver, the official sample in as many calls."""
    expected, noise = recorded_flow(name)
    flow = denoiser(name)

    def slope(t, z):
        return flow.flow(torch.from_numpy(z).view_as(noise), min(max(t, 1e-5), 1.0)).flatten()

    ends, tol = (1.0, 1e-5), float(tolerance)
    found = solve_ivp(slope, ends, noise.flatten().numpy(), method="RK45", rtol=tol, atol=tol)
    sample = torch.from_numpy(found.y[:, -1].copy()).view_as(noise)[:, 0]
    torch.testing.assert_close(sample, expected[f"tol_{tolerance}/sample"], rtol=0, atol=1e-9)
    assert flow.nfe == int(expected[f"tol_{tolerance}/nfe"])


@pytest.mark.parametrize(
    ("name", "tolerance", "atol", "calls"),
    [
        ("vpsde", "0.01", 1.0, 20),
        ("vpsde", "1e-05", 0.05, 158),
        ("geometric", "0.01", 0.05, 50),
        ("geometric", "1e-05", 0.005, 134),
    ],
)
def test_our_solver_at_equal_tolerance(name, tolerance, atol, calls):
    """Samples agree as far as either is exact; the flow of random weights magnifies errors."""
    expected, noise = recorded_flow(name)
    flow, tol = denoiser(name, torch.float32), float(tolerance)
    ends = torch.tensor([1.0, 1e-5], dtype=torch.float64)
    sample = ODE(rtol=tol, atol=tol).run(flow, noise.float(), ends, Replay([]))[:, 0]
    theirs = expected[f"tol_{tolerance}/sample"].float()
    torch.testing.assert_close(sample, theirs, rtol=0, atol=atol)
    assert flow.nfe <= calls


@pytest.mark.parametrize(("name", "atol"), [("vpsde", 0.05), ("geometric", 0.005)])
def test_temperature(name, atol):
    """A colder start is all there is to it."""
    file, ends = _golden("ode")[0], torch.tensor([1.0, 1e-5], dtype=torch.float64)
    flow = denoiser(name, torch.float32)
    sample = ODE(rtol=1e-6, atol=1e-6).run(flow, 0.8 * file["noise"][:, None], ends, Replay([]))[
        :, 0
    ]
    theirs = file[f"{name}/f32/tol_1e-05/sample_temp_0.8"]
    torch.testing.assert_close(sample, theirs, rtol=0, atol=atol)


def official_solver(slope, start, ends, *, rtol, atol, norm):
    """scipy's Runge-Kutta 4(5) on states and log-densities as one vector, as officially."""
    sizes = [part.numel() for part in start]

    def parts(y):
        pieces = torch.from_numpy(y.copy()).split(sizes)
        return tuple(p.view_as(part).to(part) for p, part in zip(pieces, start, strict=True))

    def joined(values):
        return torch.cat([value.flatten() for value in values]).double().numpy()

    found = solve_ivp(
        lambda t, y: joined(slope(torch.tensor(t, dtype=torch.float64), parts(y))),
        ends.tolist(),
        joined(start),
        method="RK45",
        rtol=rtol,
        atol=atol,
    )
    last = parts(found.y[:, -1])
    return tuple(torch.stack([a, b]) for a, b in zip(start, last, strict=True))


def likelihood(name, dtype):
    """Of the recorded tensor, with the recorded probe and tolerance."""
    file = _golden("ode")[0]
    return negative_log_likelihood(
        denoiser(name, dtype),
        file["noise"].to(dtype),
        Replay([file["hutchinson_noise"].to(dtype)]),
        probe="gaussian",
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_recorded_likelihood_by_the_recorded_solver(double, monkeypatch):
    monkeypatch.setattr("trilemma.likelihood.solve", official_solver)
    expected, found = recorded_flow("geometric")[0], likelihood("geometric", torch.float64)
    theirs = expected["nll_of_noise_tensor"]
    torch.testing.assert_close(found.nats, theirs, rtol=1e-9, atol=0)
    assert found.nfe == int(expected["nll_nfe"])


@pytest.mark.parametrize("name", SDES)
def test_the_recorded_likelihood(name):
    """Our solver differs by 9e-5 or, in float64, by 1.7e-4: as much as either is in error."""
    theirs = recorded_flow(name)[0]["nll_of_noise_tensor"]
    torch.testing.assert_close(likelihood(name, torch.float32).nats, theirs, rtol=3e-4, atol=0)


def bound(tolerance, draws):
    """Our bound on the recorded images with the recorded posterior noise of every draw."""
    file = _golden("ode")[0]
    autoencoder = networks("bernoulli")[0].requires_grad_(False)
    x0 = 2 * file["nelbo/x_unit"] - 1
    normals = [torch.zeros_like(x0)]  # nothing is binarised
    for draw in draws:
        normals += [file[f"nelbo/{draw}vae_noise/group{i}"] for i in range(2)]
        normals.append(file["hutchinson_noise"])
    rng = Replay(normals)
    found = latent_negative_log_likelihood(
        autoencoder,
        denoiser("vpsde", torch.float32),
        x0,
        rng,
        num_draws=len(draws),
        probe="gaussian",
        rtol=tolerance,
        atol=tolerance,
    )
    assert not rng.normals
    return found


def test_the_recorded_bound_by_the_recorded_solver(monkeypatch):
    """It was recorded in float32 alone, whose official variance lacks digits at t = 1e-5: 4e-5."""
    monkeypatch.setattr("trilemma.likelihood.solve", official_solver)
    theirs = _golden("ode")[0]["nelbo/vpsde/batch_mean_nelbo"].double()
    found = bound(1e-5, [""])
    torch.testing.assert_close(found.nats.mean(), theirs, rtol=1e-4, atol=0)
    assert abs(found.nfe - int(_golden("ode")[0]["nelbo/vpsde/nfe"])) <= 12  # as rounding has it


def test_the_recorded_bound():
    """Our solver at the recorded tolerance is 9.1e-5 off or, in float64, 1.9e-4."""
    theirs = _golden("ode")[0]["nelbo/vpsde/batch_mean_nelbo"].double()
    torch.testing.assert_close(bound(1e-5, [""]).nats.mean(), theirs, rtol=3e-4, atol=0)


def test_the_recorded_importance_weighted_bound():
    """Three draws. It is 1.6e-4 off and the mean of the draws' bounds 3e-5, at tolerance 1e-4.

    The two differ by 1.5e-2.
    """
    file = _golden("ode")[0]
    found = bound(1e-4, ["iw0/", "iw1/", "iw2/"])
    theirs = file["nelbo/vpsde/iw3_batch_mean_neg_log_p"].double()
    torch.testing.assert_close(found.nats.mean(), theirs, rtol=2.5e-4, atol=0)
    mean, theirs = found.reconstruction + found.kl, file["nelbo/vpsde/iw3_batch_mean_nelbo"]
    torch.testing.assert_close(mean.mean(), theirs.double(), rtol=1e-4, atol=0)


# -------------------------------------------------------------------- on a fixed grid


@pytest.mark.parametrize("name", SDES)
def test_the_recorded_variances_of_a_grid(name):
    """beta_i = 1 - (1 - V_i) / (1 - V_{i-1}) with V_0 = 0, and those of posteriors."""
    file, process = below(_golden("discretised")[0], f"{name}/"), build_process(SDES[name])
    t = torch.arange(1, 9, dtype=torch.float64) / 8
    kept = 1 - process.marginal(t).cov[:, 0, 0]
    betas = torch.cat([1 - kept[:1], 1 - kept[1:] / kept[:-1]])
    torch.testing.assert_close(kept.float(), file["alpha_bars"], rtol=1e-6, atol=0)
    torch.testing.assert_close(betas.float(), file["betas"], rtol=1e-6, atol=0)
    posterior = process.posterior(t[1:], t[:-1]).cov[:, 0, 0]
    torch.testing.assert_close(posterior.float(), file["betas_post"][1:], rtol=1e-6, atol=0)


@pytest.mark.parametrize("variance", ["posterior", "forward"])
@pytest.mark.parametrize(("name", "atol"), [("vpsde", 2e-5), ("geometric", 2e-4)])
def test_the_recorded_ancestral_sample(name, atol, variance):
    """The variances "beta_post", of posteriors, and "beta", of forward steps.

    The official sampler cuts its result to [-3, 3]. Its chain ends at data without a variance: our
    prediction of clean data, over the official signal sqrt(1 - V_0) that a process starts with.
    """
    file, start = _golden("discretised")[0], SDES[name]["sigma2_0"]
    noise = [file[f"noise/{i}"] for i in range(9)]
    grid = torch.arange(8, 0, -1, dtype=torch.float64) / 8
    flow = denoiser(name, torch.float32)
    rng = Replay(noise[1:])
    ended = Ancestral(variance=variance).run(flow, noise[0][:, None], grid, rng, final="x0")[:, 0]
    sample = (ended / math.sqrt(1 - start)).clamp(-3, 3)
    recorded = {"posterior": "beta_post", "forward": "beta"}[variance]
    theirs = file[f"{name}/{recorded}/ancestral_sample"]
    torch.testing.assert_close(sample, theirs, rtol=0, atol=atol)
    assert flow.nfe == 8
    assert len(rng.normals) == 1  # officially drawn at the last step, and not used


def test_the_walk_to_data_without_a_variance_is_the_prediction_of_clean_data():
    """The grid may end at 0 as well, where a process starts at the datum."""
    file = _golden("discretised")[0]
    noise = [file[f"noise/{i}"] for i in range(9)]
    grid = torch.arange(8, -1, -1, dtype=torch.float64) / 8
    flow = denoiser("vpsde", torch.float32)
    ended = Ancestral(variance="forward").run(flow, noise[0][:, None], grid, Replay(noise[1:]))
    theirs = file["vpsde/beta/ancestral_sample"]
    torch.testing.assert_close(ended[:, 0].clamp(-3, 3), theirs, rtol=0, atol=2e-5)
