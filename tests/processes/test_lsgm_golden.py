"""Recorded numbers of latent score-based models: coefficients of four processes, mixed scores.

The reference takes differences of numbers near one, or near the smallest variance, where this
project has ``expm1``. Bounds are 1e-12 (float64) and 4e-6 (float32) relative, and on top of them
the rounding of those differences, stated where they enter.
"""

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from oracles import below
from safetensors import safe_open

from trilemma.parametrisation import Predict
from trilemma.processes import VE, VP, GeometricVP, SubVP

GOLDEN = Path(__file__).parent.parent / "golden" / "lsgm"
EARLIEST = 1e-12  # earliest time that a noise level is inverted to
BOUND = {"f64": 1e-12, "f32": 4e-6}
EPS = {"f64": torch.finfo(torch.float64).eps, "f32": torch.finfo(torch.float32).eps}


@cache
def golden(name):
    """Tensors of a golden file and the settings of its processes."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["config"])


def make(config):
    """The process of a setting of the reference."""
    kind, low, high = config["sde_type"], config.get("sigma2_min"), config.get("sigma2_max")
    if kind == "vpsde":
        return VP(config["beta_start"], config["beta_end"], init_var=config["sigma2_0"])
    if kind == "sub_vpsde":
        return SubVP(config["beta_start"], config["beta_end"])
    if kind == "vesde":
        return VE(math.sqrt(low), math.sqrt(high))
    return GeometricVP(low, high, init_var=config["sigma2_0"])


NAMES = list(golden("sde_functions")[1])


def near(value, expected, rtol, atol=0.0):
    """Agreement up to bounds that may be tensors."""
    error = (value - expected.double()).abs()
    assert (error <= rtol * expected.double().abs() + atol).all(), error


def rounding(process, var):
    """Error of the reference's variance, in units of the machine's epsilon."""
    if isinstance(process, SubVP):
        return 2 * var.sqrt()  # (1 - e^-B)^2
    if isinstance(process, VP):
        return torch.ones_like(var)  # 1 - (1 - s0) e^-B
    low = process.sigma_min**2 if isinstance(process, VE) else process.var_min
    return torch.full_like(var, low)  # a (b / a)^t - a + s0


def rounding_of_mean(process, mean):
    """Error of the reference's mean coefficient, in units of the machine's epsilon."""
    if isinstance(process, GeometricVP):
        return 4 / mean  # sqrt of (1 - Sigma) / (1 - Sigma_0)
    return torch.ones_like(mean)


@pytest.fixture(params=[(name, dtype) for name in NAMES for dtype in BOUND], ids="/".join)
def case(request):
    """Process, recorded numbers, times as the reference had them, bound and epsilon."""
    (tensors, configs), (name, dtype) = golden("sde_functions"), request.param
    t = tensors["t_grid"].to(torch.float32 if dtype == "f32" else torch.float64).double()
    recorded = below(tensors, f"{name}/{dtype}/")
    return make(configs[name]), recorded, t, BOUND[dtype], EPS[dtype]


def test_moments(case):
    process, recorded, t, bound, eps = case
    kernel = process.marginal(t)
    var = kernel.cov[:, 0, 0]
    near(var, recorded["var"], bound, 2 * eps * rounding(process, var))
    mean = kernel.mean_matrix[:, 0, 0]
    near(mean, recorded["e2int_f"], bound, eps * rounding_of_mean(process, mean))


def test_coefficients(case):
    process, recorded, t, bound, eps = case
    # beta = q' / (1 - Sigma) of the geometric variance: 1 - Sigma is a difference
    left = 1 - process.marginal(t).cov[:, 0, 0]
    amplified = bound + 4 * eps / left if isinstance(process, GeometricVP) else bound
    near(process.drift_matrix(t)[:, 0, 0], recorded["f"], amplified)
    power = process.diffusion_matrix(t)[:, 0, 0].square()
    # beta (1 - e^-2B) of the sub-variance-preserving process is another
    difference = 2 * eps * process.beta(t) if isinstance(process, SubVP) else 0.0
    near(power, recorded["g2"], amplified, difference)
    if isinstance(process, SubVP):
        near(process.beta(t), recorded["beta"], bound)


def test_variances_of_other_processes(case):
    """VP beside sub-VP, and the marginal variance of data of variance 1 - sigma(0)^2 for VE."""
    process, recorded, t, bound, eps = case
    if isinstance(process, SubVP):
        var = VP(process.beta_min, process.beta_max).marginal(t).cov[:, 0, 0]
        near(var, recorded["var_vpsde"], bound, 2 * eps)
    if isinstance(process, VE):
        total = 1 - process.initial_cov()[0] + process.marginal(t).cov[:, 0, 0]
        near(total, recorded["var_N"], bound, 2 * eps)


def test_inverse_variance(case):
    """Through the signal-to-noise ratio: the squared signal is (1 - V) / (1 - V_0), or 1 for VE.

    The reference's logarithm of 1 - V costs it eps / (1 - V) in beta t.
    """
    process, recorded, t, bound, eps = case
    if isinstance(process, SubVP):  # the reference inverts the variance of VP there
        process = VP(process.beta_min, process.beta_max)
        recorded = {"inv_var_of_var": recorded["inv_var_vpsde_of_var_vpsde"]}
    pairs = [(process.marginal(t).cov[:, 0, 0], recorded["inv_var_of_var"])]
    if "inv_var_input" in recorded:
        pairs.append((recorded["inv_var_input"].double(), recorded["inv_var_output"]))
    for var, expected in pairs:
        signal = torch.zeros_like(var)
        if not isinstance(process, VE):
            signal = torch.log1p(-var) - math.log1p(-process.init_var)
        given = process.time_of_log_snr(signal - var.log())
        slope = torch.ones_like(var)
        if isinstance(process, VP):
            slope = (1 - var) * process.beta(given)
        near(given, expected.double().clamp(min=EARLIEST), bound, 4 * eps / slope)


def test_constant_of_the_cross_entropy(case):
    """(1 + ln(2 pi V)) / 2 at the earliest time."""
    process, recorded, _, bound, eps = case
    t = golden("sde_functions")[0]["cross_entropy_const_eps"]
    var = process.marginal(t).cov[:, 0, 0]
    constant = (1 + torch.log(2 * math.pi * var)) / 2
    near(constant, recorded["cross_entropy_const"], bound, 2 * eps * rounding(process, var) / var)


@pytest.mark.parametrize("name", NAMES)
def test_mixed_score(name):
    """The reference takes the variances of data and start to sum to one."""
    tensors, configs = golden("mixed_score")
    config = configs[name]
    t, x, raw = (tensors[key].double() for key in ("t", "x_noisy", "raw_prediction"))
    process, bound, eps = make(config), BOUND["f32"], EPS["f32"]
    kernel = process.marginal(t)
    mean, var = kernel.mean_matrix[..., None], kernel.cov[..., None]
    of_sigma = eps * rounding(process, var) / var
    mixed = Predict("eps", mixed_score=True, data_var=1 - config["sigma2_0"])
    gaussian = mixed.readout(process, t).on_state[..., None] * x
    near(gaussian, tensors[f"{name}/mixing_component"], bound, of_sigma * gaussian.abs())
    # the logit is the network's share
    share = torch.sigmoid(tensors["mixing_logit"].double())
    given = (1 - share) * gaussian + share * raw
    near(given, tensors[f"{name}/mixed_prediction"], bound, eps + of_sigma * gaussian.abs())
    given = kernel.sample(x[:, None], raw[:, None])[:, 0]
    of_mean = eps * rounding_of_mean(process, mean)
    atol = (bound + of_sigma) * (var.sqrt() * raw).abs() + (bound * mean + of_mean) * x.abs()
    near(given, tensors[f"{name}/sample_q"], 0.0, atol)
