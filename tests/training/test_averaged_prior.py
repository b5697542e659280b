"""An autoencoder that is trained on the prior's averages, against loops written by hand."""

import copy

import pytest
import runs
import torch
from accelerate.state import AcceleratorState
from test_options import close
from test_trainer import torchrun

from trilemma.data import Batches
from trilemma.rng import BatchRng, mix_seed
from trilemma.training import Adam

DROPOUT, STEPS = 0.3, 5


def fit(out, num_steps=STEPS, *, method=None, resume=False, dropout=0.0, **options):
    """One run in this process; returns the gradients of the autoencoder at every step."""
    method = method or runs.make_method("latents", dropout)
    gradients, held = [], list(method.autoencoder.parameters())

    class Spy(Adam):
        def rate(self, images):  # asked for before every step
            gradients.append([parameter.grad.clone() for parameter in held])
            return super().rate(images)

    recipes = {**runs.LATENTS, "autoencoder": Spy(**runs.CUT)}
    trainer = runs.make_trainer(num_steps, optimizers=recipes, **options)
    assert trainer.fit(method, runs.make_data("latents"), out, resume=resume)
    return gradients


def by_hand(num_steps, *, averaged):
    """The run in plain PyTorch, with the averages in a prior of their own.

    Returns the autoencoder's gradients at every step, the method and the prior of averages.
    """
    method = runs.make_method("latents", DROPOUT).train()
    shown, gradients = copy.deepcopy(method), []
    shown.autoencoder = method.autoencoder
    average = shown.prior.network
    networks = {"autoencoder": method.autoencoder, "prior": method.prior.network}
    optimizers = {k: runs.LATENTS[k].build(v.parameters()) for k, v in networks.items()}
    loader = Batches(runs.make_data("latents"), batch_size=16, seed=0)
    for step in range(num_steps):
        (batch,) = next(loader)
        torch.manual_seed(mix_seed(0, "layers", step, 0))
        for phase, network in networks.items():
            seen = shown if averaged and phase == "autoencoder" else method
            rng, weights = BatchRng(mix_seed(0, phase, step), 16), list(network.parameters())
            total = seen.loss(batch.x0, None, phase, rng, step).total
            for weight, gradient in zip(weights, torch.autograd.grad(total, weights), strict=True):
                weight.grad = gradient
            if phase == "autoencoder":
                gradients.append([weight.grad.clone() for weight in weights])
            optimizers[phase].step()
        decay = 0.9 if step else 0.0
        with torch.no_grad():
            trained = method.prior.network.parameters()
            for mine, its in zip(average.parameters(), trained, strict=True):
                mine.copy_(decay * mine + (1 - decay) * its)
    return gradients, method, average


def apart(found, expected):
    """Largest distance between the gradients of each step, relative to the larger one."""
    distances = []
    for ours, theirs in zip(found, expected, strict=True):
        one, other = (torch.cat([g.flatten() for g in step]) for step in (ours, theirs))
        distances.append(float((one - other).norm() / max(one.norm(), other.norm())))
    return distances


@pytest.mark.parametrize("averaged", [True, False])
def test_the_autoencoder_sees_the_averages_and_the_prior_itself(tmp_path, averaged):
    """Gradients, weights and averages of five steps, the prior's dropout included.

    In the first two steps average and weights are the same; later the two ways differ.
    """
    method = runs.make_latents(DROPOUT, averaged=averaged)
    found = fit(tmp_path, method=method)
    expected, by_us, average = by_hand(STEPS, averaged=averaged)
    assert max(apart(found, expected)) < 1e-5
    other = apart(found, by_hand(STEPS, averaged=not averaged)[0])
    assert max(other[:2]) < 1e-5
    assert min(other[2:]) > 1e-4
    for name, value in by_us.state_dict().items():
        torch.testing.assert_close(method.state_dict()[name], value, rtol=0, atol=1e-5, msg=name)
    stored = runs.final_state(tmp_path)
    for name, value in average.state_dict().items():
        ours = stored[f"ema.prior.network.{name}"]
        torch.testing.assert_close(ours, value, rtol=0, atol=1e-5, msg=name)


def test_a_phase_sees_what_it_trains_as_it_is(tmp_path):
    """A generator that is averaged where it is trained trains as ever; elsewhere it is seen."""
    for phases in ((), ("generator",), ("discriminator",)):
        method = runs.make_method("points")
        method.averaged_in = phases
        trainer = runs.make_trainer(5)
        assert trainer.fit(method, runs.make_data("points"), tmp_path / "-".join(phases) / "run")
    plain, own, other = (
        runs.final_state(tmp_path / name / "run") for name in ("", "generator", "discriminator")
    )
    assert not runs.differing(own, plain)
    assert runs.differing(other, plain)


def test_runs_resume_bit_for_bit(tmp_path):
    fit(tmp_path / "whole", 12, dropout=DROPOUT)
    fit(tmp_path / "parts", 4, dropout=DROPOUT)
    fit(tmp_path / "parts", 12, dropout=DROPOUT, resume=True)
    whole, parts = (runs.final_state(tmp_path / name) for name in ("whole", "parts"))
    assert not runs.differing(whole, parts)


def near(out, expected):
    """Losses and every tensor of two runs agree."""
    close(runs.losses(out), runs.losses(expected), {"abs": 1e-4})
    found, whole = runs.final_state(out), runs.final_state(expected)
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_accumulation_computes_what_one_batch_computes(tmp_path):
    fit(tmp_path / "one", 8)
    fit(tmp_path / "parts", 8, accumulate=4)
    near(tmp_path / "parts", tmp_path / "one")


def test_compiled_networks_in_two_processes_compute_what_one_process_computes(tmp_path):
    """With accumulation in each. The backend of the compiler generates no code."""
    fit(tmp_path / "one", 8)
    options = {"num_steps": 8, "accumulate": 2, "compile": True}
    entry = {"kind": "latents", "out": str(tmp_path / "two"), "backend": "aot_eager"}
    done = torchrun({**entry, "trainer": options})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("finished True") == 2
    assert "graphs 0" not in done.stdout
    near(tmp_path / "two", tmp_path / "one")


def test_averages_compute_in_the_precision_of_training(tmp_path):
    method, seen = runs.make_method("latents"), []
    layer = method.prior.network.layers[1]
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    AcceleratorState._reset_state()
    try:
        fit(tmp_path, 2, method=method, precision="bf16")
    finally:
        AcceleratorState._reset_state()
    assert seen == [torch.bfloat16] * 4  # two phases of two steps


def test_weights_are_given_back_after_an_error(tmp_path):
    method, data = runs.make_method("latents"), runs.make_data("latents")
    weight = method.prior.network.layers[1].weight

    def fail(*args):
        raise KeyboardInterrupt

    fit(tmp_path, 4, method=method)
    trained = runs.final_state(tmp_path)["method.prior.network.layers.1.weight"]
    method.prior.network.layers[2].register_forward_hook(fail)
    trainer = runs.make_trainer(8, optimizers=runs.LATENTS)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(method, data, tmp_path, resume=True)
    assert torch.equal(weight, trained)
