"""Samplers: walks from the prior to data."""

from trilemma.samplers.ancestral import Ancestral
from trilemma.samplers.base import Sampler
from trilemma.samplers.dpm_solver import DPMSolver
from trilemma.samplers.euler_maruyama import EulerMaruyama, PredictorCorrector
from trilemma.samplers.gddim import GDDIM
from trilemma.samplers.heun import Heun
from trilemma.samplers.ode import ODE
from trilemma.samplers.sscs import SSCS

__all__ = [
    "GDDIM",
    "ODE",
    "SAMPLERS",
    "SSCS",
    "Ancestral",
    "DPMSolver",
    "EulerMaruyama",
    "Heun",
    "PredictorCorrector",
    "Sampler",
]

SAMPLERS: dict[str, type[Sampler]] = {
    "ancestral": Ancestral,
    "euler_maruyama": EulerMaruyama,
    "predictor_corrector": PredictorCorrector,
    "heun": Heun,
    "ode": ODE,
    "sscs": SSCS,
    "gddim": GDDIM,
    "dpm_solver": DPMSolver,
}
"""Samplers by the names that the command line and ``Pipeline.sample`` take."""
