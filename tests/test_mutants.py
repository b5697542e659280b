"""Deliberate bugs, each of which a named check must notice.

A mutant is a change of a few characters in the source of one function. A mutant whose text is no
longer found fails, so that the list follows the code.
"""

import inspect
import sys
import textwrap
from pathlib import Path

import pytest
import test_ancestral
import test_averaged_prior
import test_ddgan
import test_ema
import test_generator_golden
import test_golden_cld
import test_golden_gddim
import test_latent_likelihood
import test_layers
import test_lsgm
import test_optim
import test_process_laws
import test_rng
import test_sampler_laws
import test_sampling
import test_store
import test_trainer
import test_vp
import torch
from oracles import Coupled, Langevin

from trilemma.checkpoints import official_ddgan, store
from trilemma.denoiser import GeneratorDenoiser, ScoreDenoiser
from trilemma.methods import DDGAN, KLSchedule, Reweighted
from trilemma.methods.score import ScoreMatching
from trilemma.networks import MixedScore, layers
from trilemma.networks import discriminator as discriminator_module
from trilemma.networks.ncsnpp import NCSNpp, ResidualInput
from trilemma.parametrisation import VelocityNoise
from trilemma.processes import CLD, VP, LinearSDE, Transition
from trilemma.rng import BatchRng, SampleRng
from trilemma.samplers import (
    GDDIM,
    SSCS,
    Ancestral,
    DPMSolver,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    gddim,
)
from trilemma.samplers import base as samplers
from trilemma.sampling import Start
from trilemma.training import EMA, Adam, Trainer


def mutate(monkeypatch, owner, name, *changes):
    """Replace text in one function's source and put the result in its place."""
    original = inspect.unwrap(inspect.getattr_static(owner, name))
    if isinstance(original, staticmethod):
        original = inspect.unwrap(original.__func__)
    text = textwrap.dedent(inspect.getsource(original))
    for old, new in changes:
        assert text.count(old) == 1, f"{name}: {old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    module = sys.modules[original.__module__]
    scope = dict(vars(module))
    # Annotations stay text; globals of the mutant are a copy of the module's.
    exec(compile("from __future__ import annotations\n" + text, f"<mutant {name}>", "exec"), scope)
    monkeypatch.setattr(owner, name, scope[name])


def trace(part):
    """One comparison with the recorded training, run afresh."""

    def check():
        made = test_ddgan.Trace()
        made.losses, made.gradients = {}, {}
        for i in range(made.config["iterations"]):
            for phase in test_ddgan.PHASES:
                made.losses[i, phase], made.gradients[i, phase] = made.run(i, phase)
            made.ema.update(made.networks["generator"])
        part(made)

    return check


def losses(made):
    for i in range(3):
        test_ddgan.test_recorded_losses(made, i)


def pair_laws():
    test_ddgan.test_real_and_fake_pairs_have_one_law_for_a_perfect_generator(4)


def sampler_law():
    test_ancestral.test_exact_for_a_perfect_denoiser_however_large_the_steps(4, VP())


def bayes(process, origin=0.0):
    return lambda: test_process_laws.test_posterior_is_bayes_rule(process, origin)


def golden_posterior():
    test_vp.test_posterior_coefficients_of_the_reference(4)


def integrated():
    test_process_laws.test_closed_form_equals_integrated_moments(VP())


def golden_generator():
    test_generator_golden.test_generator_outputs_and_gradients("gen_g1_cifar_like")


def recorded_pairs():
    test_ddgan.test_recorded_pairs_and_posterior_draws(4)


def penalty():
    test_ddgan.test_penalty_is_on_the_cleaner_real_data_alone(False)


def step(sampler, process):
    """One step on Gaussian data, by another formula."""
    return lambda: test_sampler_laws.check_step(sampler, process)


def rises_late():
    assert KLSchedule(0.0, 1.0, steps=10, constant_steps=10).coefficient(15) == 0.5


def golden_euler():
    test_golden_cld.test_euler_maruyama("celeba_post", "linear_den0")


def golden_splitting():
    test_golden_cld.check_splitting("cifar", "linear_den0")


def golden_clock():
    test_golden_cld.check_splitting("celeba_post", "linear_den0")


def golden_flow():
    test_golden_cld.test_probability_flow_of_a_mixture("celeba_post", 0)


def reversal():
    test_process_laws.test_equilibrium_reversal_is_the_reverse_dynamics_of_the_prior(CLD())


def clock():
    test_golden_cld.test_their_clock_runs_ahead_where_beta_varies("linear_den0")


def coefficients(sampler):
    return lambda: test_golden_gddim.check_coefficients("gddim_cifar", "N10", sampler)


def completion():
    test_golden_gddim.check_completion("gddim_cifar", True)


def last_step():
    test_sampler_laws.test_the_last_step_is_an_euler_step_or_the_mean_of_the_data("vp")


def order_of_history():
    test_sampler_laws.test_order_in_state("dpm_solver", "vp", 80)


def composed(process):
    return lambda: test_process_laws.test_transitions_compose(process)


def lazy_penalty():
    test_ddgan.test_penalty_comes_every_few_steps_and_is_not_multiplied_by_the_interval()


MUTANTS = {
    # processes
    "posterior: s and t swapped": (
        LinearSDE,
        "posterior",
        [("transition(as_times(origin), s)", "transition(as_times(origin), t)")],
        [bayes(VP()), golden_posterior, sampler_law, pair_laws],
    ),
    "posterior: origin forgotten": (
        LinearSDE,
        "posterior",
        [("transition(as_times(origin), s)", "transition(0 * s, s)")],
        [bayes(VP(), 0.02)],
    ),
    "posterior: noise of the gain left out": (
        LinearSDE,
        "posterior",
        [(" + gain @ noise @ gain.mT", "")],
        [bayes(VP()), golden_posterior, sampler_law],
    ),
    "posterior: scale of the origin left out": (
        LinearSDE,
        "posterior",
        [("keep @ early.mean_matrix, gain", "keep, gain")],
        [bayes(VP()), golden_posterior],
    ),
    "posterior: transpose dropped": (
        LinearSDE,
        "posterior",
        [("psi @ early.cov).mT", "psi @ early.cov)")],
        [bayes(Coupled()), bayes(Langevin())],
    ),
    "posterior: no mask at the last step": (
        LinearSDE,
        "posterior",
        [("gain, cov)", "gain, cov + 1e-20)")],
        [recorded_pairs],
    ),
    "integral: panels in the wrong order": (
        LinearSDE,
        "_integrate",
        [("_compose(first, second)", "_compose(second, first)")],
        [composed(Coupled())],
    ),
    "VP: root of the mean dropped": (
        VP,
        "transition",
        [("-integral / 2", "-integral")],
        [integrated, lambda: test_process_laws.test_moment_equations(VP())],
    ),
    "VP: cancellation for small steps": (
        VP,
        "transition",
        [("-torch.expm1(-integral)", "1 - torch.exp(-integral)")],
        [test_vp.test_small_intervals_do_not_cancel],
    ),
    "VP: midpoint of the rate": (
        VP,
        "beta_integral",
        [("(t + s) / 2", "(t - s) / 2")],
        [integrated, lambda: test_process_laws.test_transitions_compose(VP())],
    ),
    "kernel: root of the variance dropped": (
        Transition,
        "chol",
        [("self.cov.sqrt()", "self.cov")],
        [
            recorded_pairs,
            sampler_law,
            pair_laws,
            lambda: test_process_laws.test_samples_of_a_kernel_have_its_moments(VP()),
        ],
    ),
    # method
    "pair: two marginals in place of a chain": (
        DDGAN,
        "real_pair",
        [("sample(u_s, eps_t)", "sample(u_0, eps_t)")],
        [recorded_pairs, pair_laws],
    ),
    "pair: one noise for both": (
        DDGAN,
        "real_pair",
        [("sample(u_s, eps_t)", "sample(u_s, eps_s)")],
        [recorded_pairs, pair_laws],
    ),
    "loss: sign of the real logits": (
        DDGAN,
        "loss",
        [("F.softplus(-real_logits)", "F.softplus(real_logits)")],
        [lambda: test_ddgan.test_losses_of_a_constant_discriminator(0.5), trace(losses)],
    ),
    "loss: saturating generator": (
        DDGAN,
        "loss",
        [("F.softplus(-logits)", "-F.softplus(logits)")],
        [lambda: test_ddgan.test_losses_of_a_constant_discriminator(0.5), trace(losses)],
    ),
    "loss: fake pair without its noise": (
        DDGAN,
        "fake",
        [
            (
                "self.posterior(step).sample(u_0, u_t, ",
                "(lambda a, b, c: self.posterior(step).mean(a, b))(u_0, u_t, ",
            )
        ],
        [pair_laws, trace(losses)],
    ),
    "penalty: twice the weight": (
        DDGAN,
        "loss",
        [("self.r1_weight / 2", "self.r1_weight")],
        [penalty, trace(losses)],
    ),
    "penalty: on the noisier image": (
        DDGAN,
        "loss",
        [
            (
                "u_s.requires_grad_(has_penalty), index, u_t, label",
                "u_s, index, u_t.requires_grad_(has_penalty), label",
            ),
            ("(real_logits, u_s)", "(real_logits, u_t)"),
        ],
        [penalty, trace(losses)],
    ),
    "penalty: multiplied by the interval": (
        DDGAN,
        "loss",
        [("self.r1_weight / 2", "self.r1_every * self.r1_weight / 2")],
        [lazy_penalty, trace(losses)],
    ),
    "penalty: one step late": (
        DDGAN,
        "loss",
        [("step % self.r1_every", "(step + 1) % self.r1_every")],
        [lazy_penalty, trace(losses)],
    ),
    "penalty: mean over pixels": (
        DDGAN,
        "_gradient_norm",
        [(".sum(1).mean()", ".mean(1).mean()")],
        [penalty, trace(losses)],
    ),
    "penalty: norm, not squared": (
        DDGAN,
        "_gradient_norm",
        [(".square().sum(1).mean()", ".norm(dim=1).mean()")],
        [penalty],
    ),
    # sampler
    "sampler: clean data at another time": (
        Ancestral,
        "plan",
        [("denoiser.origin)", "0.0)")],
        [test_ancestral.test_recorded_trajectory, sampler_law],
    ),
    "sampler: mean in place of a draw": (
        Ancestral,
        "advance",
        [("row.noise is not None", "False")],
        [test_ancestral.test_recorded_trajectory, sampler_law, step("ancestral", "cld")],
    ),
    "denoiser: step off by one": (
        GeneratorDenoiser,
        "x0",
        [("self.steps[float(t)], device", "self.steps[float(t)] + 1, device")],
        [test_ancestral.test_recorded_trajectory],
    ),
    "CLD: midpoint of the rate": (
        CLD,
        "beta_integral",
        [("(t + s) / 2", "(t - s) / 2")],
        [composed(CLD(0.1, 7.0)), golden_clock],
    ),
    "CLD: velocity not turned back": (
        CLD,
        "equilibrium_reversal",
        [("[[1.0, -1.0], [-1.0, 1.0]]", "[[1.0, 1.0], [1.0, 1.0]]")],
        [
            step("sscs", "cld"),
            golden_splitting,
            lambda: (
                test_process_laws.test_equilibrium_reversal_is_the_reverse_dynamics_of_the_prior(
                    CLD()
                )
            ),
        ],
    ),
    # denoiser and parametrisation
    "score: transpose dropped": (
        ScoreDenoiser,
        "prepare",
        [("torch.linalg.inv(chol).mT", "torch.linalg.inv(chol)")],
        [step("euler_maruyama", "cld"), step("gddim, noise", "cld-linear"), golden_euler],
    ),
    "flow: the whole score": (
        ScoreDenoiser,
        "prepare",
        [("diffusion.mT @ score / 2", "diffusion.mT @ score")],
        [step("heun", "vp"), step("euler", "cld"), golden_flow],
    ),
    "clean data: row of the velocity": (
        ScoreDenoiser,
        "prepare",
        [("-chol[:, :1] / signal", "-chol[:, -1:] / signal")],
        [step("ancestral", "cld")],
    ),
    "velocity noise: sign of the completion": (
        VelocityNoise,
        "readout",
        [("mixed - signal_x / below", "mixed + signal_x / below")],
        [completion],
    ),
    "velocity noise: signals swapped": (
        VelocityNoise,
        "readout",
        [("psi[..., 0, 0], psi[..., 1, 0]", "psi[..., 1, 0], psi[..., 0, 0]")],
        [completion],
    ),
    # samplers of scores
    "Euler: end of the step": (
        EulerMaruyama,
        "plan",
        [("t, h = grid[:-1],", "t, h = grid[1:],")],
        [step("euler_maruyama", "vp"), golden_euler],
    ),
    "Euler: sign of the drift": (
        EulerMaruyama,
        "plan",
        [("identity - h * drift", "identity + h * drift")],
        [step("euler_maruyama", "vp"), golden_euler],
    ),
    "Euler: half the score": (
        EulerMaruyama,
        "plan",
        [("h * diffusion @ diffusion.mT", "h / 2 * diffusion @ diffusion.mT")],
        [step("euler_maruyama", "sub-vp"), golden_euler],
    ),
    "corrector: root of the step": (
        PredictorCorrector,
        "advance",
        [("(2 * delta) ** 0.5", "delta**0.5")],
        [step("predictor_corrector", "cld")],
    ),
    "corrector: earlier time": (
        PredictorCorrector,
        "advance",
        [("denoiser.score(u, s)", "denoiser.score(u, t)")],
        [step("two corrections", "vp")],
    ),
    "splitting: clock of the second half": (
        SSCS,
        "plan",
        [("equilibrium_reversal(middle, s)", "equilibrium_reversal(t, middle)")],
        [step("sscs", "cld-linear"), step("sscs", "vp"), clock],
    ),
    "splitting: the prior's share left out": (
        SSCS,
        "plan",
        [("on_state = on_score", "on_state = 0 * on_score")],
        [step("sscs", "cld"), golden_splitting],
    ),
    "Heun: half left out": (
        Heun,
        "advance",
        [("(h / 2) * (slope", "h * (slope")],
        [step("heun", "vp"), step("heun", "cld")],
    ),
    "Heun: slope at the start twice": (
        Heun,
        "advance",
        [("u + h * slope, s)", "u, row.t)")],
        [step("heun", "vp")],
    ),
    "Heun: half the churn": (
        Heun,
        "plan",
        [("self.churn / len(t)", "self.churn / len(t) / 20")],
        [step("heun, churn", "vp")],
    ),
    "gDDIM: turned the other way": (
        gddim,
        "rotated_factor",
        [("[cos, sin]", "[cos, -sin]"), ("[-sin, cos]", "[sin, cos]")],
        [
            step("gddim 1", "cld"),
            coefficients("R_q2"),
        ],
    ),
    "gDDIM: transpose dropped": (
        GDDIM,
        "plan",
        [("-factors[:-1].mT", "-factors[:-1]")],
        [step("gddim 1", "cld"), coefficients("R_q1")],
    ),
    "gDDIM: whole noise in the quadrature": (
        GDDIM,
        "_quadrature",
        [("diffusion.mT) / 2", "diffusion.mT)")],
        [coefficients("R_q2"), coefficients("L_q2")],
    ),
    "gDDIM: history backwards": (
        gddim._Quadrature,
        "coefficients",
        [("[n - count + 1 : n + 1].flip(0)", "[n - count + 1 : n + 1]")],
        [coefficients("R_q2")],
    ),
    "gDDIM: lambda not squared": (
        gddim._Tilted,
        "__init__",
        [("1 + stochasticity**2", "1 + stochasticity")],
        [step("gddim, half noise", "vp"), step("gddim, half noise", "cld")],
    ),
    "DPM-Solver: weight of the history": (
        DPMSolver,
        "plan",
        [("h[n] / h[n - 1] / 2", "h[n] / h[n - 1]")],
        [order_of_history, test_sampler_laws.test_dpm_solver_looks_ahead_to_the_middle_of_the_step],
    ),
    "DPM-Solver: ratio of the steps": (
        DPMSolver,
        "plan",
        [("h[n] / h[n - 1] / 2", "h[n - 1] / h[n] / 2")],
        [test_sampler_laws.test_dpm_solver_looks_ahead_to_the_middle_of_the_step],
    ),
    "DPM-Solver: decay of the state": (
        DPMSolver,
        "plan",
        [("torch.exp(-h) if", "torch.exp(-2 * h) if")],
        [step("dpm_solver, noise", "vp")],
    ),
    "last step: sign of the drift": (
        samplers,
        "_finish",
        [("u - float(t) * act(drift", "u + float(t) * act(drift")],
        [last_step],
    ),
    "edit: end of the grid counted": (
        Start,
        "shorten",
        [("grid[:-1] - self.strength", "grid - self.strength")],
        [lambda: test_sampling.test_a_strength_means_the_nearest_time(1e-3, 3)],
    ),
    # networks
    "stddev: neighbours grouped": (
        discriminator_module,
        "minibatch_stddev",
        [
            (
                "x.reshape(group, batch // group, channels, height, width)",
                "x.reshape(batch // group, group, channels, height, width).transpose(0, 1)",
            )
        ],
        [lambda: test_generator_golden.test_discriminator_logits_and_penalty("disc_small")],
    ),
    "FIR: gain of upsampling": (
        layers.FIR,
        "up",
        [("4 * self.kernel", "2 * self.kernel")],
        [
            lambda: test_layers.test_fir_equals_its_definition((1, 3, 3, 1), (4, 4)),
            golden_generator,
        ],
    ),
    "FIR: kernel not flipped": (
        layers.FIR,
        "filter",
        [("self.kernel.flip(0, 1)", "self.kernel")],
        [lambda: test_layers.test_fir_equals_its_definition((3, 1, 2), (4, 4))],
    ),
    "norm: scale and shift swapped": (
        layers.AdaptiveGroupNorm,
        "forward",
        [("gamma, beta =", "beta, gamma =")],
        [
            golden_generator,
            test_layers.test_adaptive_group_norm_takes_scale_then_shift_from_the_style,
        ],
    ),
    "pyramid: not rescaled": (
        ResidualInput,
        "forward",
        [("+ h) * self.gain", "+ h)")],
        [golden_generator],
    ),
    "U-Net: skip before features": (
        NCSNpp,
        "_ascend",
        [("[h, skips.pop()]", "[skips.pop(), h]")],
        [golden_generator],
    ),
    "key map: layers counted from one": (
        official_ddgan,
        "ncsnpp_links",
        [("enumerate(layers)", "enumerate(layers, 1)")],
        [lambda: test_generator_golden.load("gen_g1_cifar_like")],
    ),
    # latent models
    "cross entropy: share of time dropped": (
        ScoreMatching,
        "_nats",
        [("(1 - self.t_min) * ", "")],
        [lambda: test_lsgm.test_the_bound_and_its_gradient_are_exact("VP, uniform")],
    ),
    "tied times: weights the wrong way round": (
        ScoreMatching,
        "tied_losses",
        [("(wanted / own)", "(own / wanted)")],
        [lambda: test_lsgm.test_tied_times_train_the_autoencoder_on_the_bound(VP(), Reweighted())],
    ),
    "mixed score: shares swapped": (
        MixedScore,
        "forward",
        [("self.share *", "(1 - self.share) *")],
        [lambda: test_lsgm.test_shares_blend_the_network_with_the_gaussian("position")],
    ),
    "mixed score: closed channels seen": (
        MixedScore,
        "forward",
        [("u * mask.to(u)", "u")],
        [lambda: test_lsgm.test_closed_channels_neither_influence_nor_are_influenced(1)],
    ),
    "latent bound: entropy of the posterior counted twice": (
        test_latent_likelihood,
        "latent_negative_log_likelihood",
        [("kl = log_q.double()", "kl = 2 * log_q.double()")],
        [lambda: test_latent_likelihood.test_more_draws_come_closer_and_stay_above()],
    ),
    "latent bound: mean in place of the log of a mean": (
        test_latent_likelihood,
        "latent_negative_log_likelihood",
        [
            (
                "math.log(num_draws) - torch.logsumexp(-torch.stack(bounds), dim=0)",
                "torch.stack(bounds).mean(0)",
            )
        ],
        [lambda: test_latent_likelihood.test_several_draws_are_joined_by_their_weights()],
    ),
    "KL schedule: constant part forgotten": (
        KLSchedule,
        "coefficient",
        [("(step - self.constant_steps)", "step")],
        [rises_late],
    ),
    # random numbers
    "rng: blocks in place of cards": (
        BatchRng,
        "normal",
        [
            (
                "[self.shard :: self.num_shards]",
                "[self.shard * self.num_rows : (self.shard + 1) * self.num_rows]",
            )
        ],
        [lambda: test_rng.test_shards_interleave_to_the_whole_draw(2)],
    ),
    "rng: a sample is its place in the batch": (
        SampleRng,
        "__init__",
        [
            (
                "mix_seed(seed, i)) for i in indices",
                "mix_seed(seed, n)) for n, i in enumerate(indices)",
            )
        ],
        [lambda: test_sampling.check_order_and_offset("points")],
    ),
    # training
    "EMA: weights swapped": (
        EMA,
        "update",
        [("1 - decay)", "decay)")],
        [
            lambda: test_ema.test_formula(0.9, 3),
            trace(lambda made: test_ddgan.test_recorded_weights_after_training(made, "G_ema")),
        ],
    ),
    "EMA: off by one at the start": (
        EMA,
        "update",
        [("self.decay if self.num_updates else 0.0", "self.decay")],
        [
            test_ema.test_the_first_update_copies,
            lambda: test_ema.test_formula(0.9, 3),
            trace(lambda made: test_ddgan.test_recorded_weights_after_training(made, "G_ema")),
        ],
    ),
    "EMA: off by one in the warm-up": (
        EMA,
        "update",
        [("(1 + self.num_updates) /", "(2 + self.num_updates) /")],
        [test_ema.test_warmup_caps_the_decay],
    ),
    "rate: half a period": (
        Adam,
        "rate",
        [("math.pi * done", "math.pi * done / 2")],
        [test_optim.test_equals_the_scheduler_of_torch, test_optim.test_ends_of_the_cosine],
    ),
    "trainer: micro-batches summed": (
        Trainer,
        "_train_step",
        [("loss.total / len(inputs)", "loss.total")],
        [
            lambda: test_trainer.test_accumulation_computes_what_one_batch_computes(
                Path(new_folder())
            )
        ],
    ),
    "trainer: upside down": (
        Trainer,
        "_augment",
        [("x0.flip(-1)", "x0.flip(-2)")],
        [lambda: mirrored()],
    ),
    "trainer: never mirrored": (
        Trainer,
        "_augment",
        [("integers(2)", "integers(1)")],
        [lambda: mirrored()],
    ),
    "trainer: averages of the prior not shown": (
        Trainer,
        "_train_step",
        [("phase in run.method.averaged_in and name not in trained", "False")],
        [
            lambda: test_averaged_prior.test_the_autoencoder_sees_the_averages_and_the_prior_itself(
                Path(new_folder()), True
            )
        ],
    ),
    "store: digest not compared": (
        store,
        "read",
        [('!= metadata.get("sha256")', "is None")],
        [lambda: flipped_byte_is_refused()],
    ),
}


def mirrored():
    with pytest.MonkeyPatch.context() as patch:
        test_trainer.test_half_of_the_images_are_mirrored_left_to_right(
            True, Path(new_folder()), patch
        )


def new_folder():
    import tempfile

    return tempfile.mkdtemp()


def flipped_byte_is_refused():
    folder = Path(new_folder())
    store.write(folder / "a.safetensors", "pipeline", test_store.TENSORS, test_store.HEADER)
    payload = bytearray((folder / "a.safetensors").read_bytes())
    payload[-1] ^= 1
    test_store.refused(folder / "b.safetensors", bytes(payload))


CASES = [
    pytest.param(name, number, id=f"{name}-{number}")
    for name, (*_, checks) in MUTANTS.items()
    for number in range(len(checks))
]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_mutant_is_killed(name, number, monkeypatch):
    owner, function, changes, checks = MUTANTS[name]
    mutate(monkeypatch, owner, function, *changes)
    # pytest.raises that sees nothing raises Failed; replayed noise that runs out, an IndexError.
    killed = (AssertionError, pytest.fail.Exception, RuntimeError, ValueError, IndexError)
    with pytest.raises(killed):
        torch.manual_seed(0)
        checks[number]()


@pytest.mark.parametrize(
    "number", [number for number, (*_, checks) in enumerate(MUTANTS.values()) if checks]
)
def test_checks_pass_without_mutants(number):
    """Otherwise a check that always fails would seem to kill everything."""
    *_, checks = list(MUTANTS.values())[number]
    for check in checks:
        torch.manual_seed(0)
        check()
