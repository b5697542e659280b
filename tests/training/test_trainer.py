"""The training loop: resuming, stopping, sharing the work, and failing well."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
import torch

from trilemma.checkpoints import store
from trilemma.errors import CheckpointError, ConfigError, NumericalError
from trilemma.methods import DDGAN
from trilemma.methods.base import Method
from trilemma.networks import PointDiscriminator, PointGenerator
from trilemma.sampling import sample_indices
from trilemma.training import Adam, Trainer

SCRIPT = Path(runs.__file__)
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
ENV.pop("ACCELERATE_USE_CPU", None)  # a user without a GPU has not set it


def run(kind, out, *, resume=False, dropout=0.0, data=None, method=None, export=None, **options):
    """One run in this process; returns whether it finished."""
    report = options.pop("report", None)
    return runs.make_trainer(**options).fit(
        method or runs.make_method(kind, dropout),
        runs.make_data(kind) if data is None else data,
        out,
        resume=resume,
        export=export,
        report=report,
    )


def torchrun(entry, *, processes=2):
    """The same run in several processes, which end themselves if they wait for each other."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), str(SCRIPT), json.dumps(entry)]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=180)


# ------------------------------------------------------------------------ learning


def test_points_are_learnt(tmp_path):
    """A few hundred steps on 25 Gaussians move samples towards the data."""
    torch.manual_seed(0)
    method = DDGAN(PointGenerator(width=48), PointDiscriminator(width=48), num_steps=2)
    data = runs.make_data("points")
    real = data.fetch(range(400)).x0

    def distance():
        """Energy distance, zero for equal laws."""
        fake = next(sample_indices(method.eval(), range(400), batch_size=400)).data
        cross = torch.cdist(real, fake).mean()
        return float(2 * cross - torch.cdist(real, real).mean() - torch.cdist(fake, fake).mean())

    before = distance()
    recipe = Adam(1e-3, adam_betas=(0.5, 0.9))
    recipes = {"discriminator": recipe, "generator": recipe}
    options = {"num_steps": 300, "batch_size": 64, "log_every": 100, "save_images": 10**6}
    assert run("points", tmp_path, method=method, data=data, optimizers=recipes, **options)
    assert distance() < before / 2
    records = runs.losses(tmp_path)
    assert [record["step"] for record in records] == [100, 200, 300]
    for record in records:
        assert 0.3 < record["generator/loss"] < 3
        assert 0.3 < record["discriminator/real"] + record["discriminator/fake"] < 3


def test_every_weight_moves(tmp_path):
    method = runs.make_method("images")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    run("images", tmp_path, method=method)
    after = method.state_dict()
    still = [k for k, v in before.items() if torch.equal(v, after[k])]
    assert not still
    assert all(torch.isfinite(v).all() for v in after.values())


def test_weights_average_and_rates_follow_their_recipes(tmp_path):
    """Learning rates are those of ``Adam.rate``; the stored average is that of ``EMA``."""
    seen = []

    class Spy(Adam):
        def rate(self, images):
            seen.append(images)
            return super().rate(images)

    spy = Spy(**runs.CUT, decay_images=100)
    run("points", tmp_path, num_steps=5, optimizers={"discriminator": spy, "generator": spy})
    assert seen == [images for step in range(5) for images in (16 * step,) * 2]
    stored = runs.final_state(tmp_path)
    names = [k for k in stored if k.startswith("ema.generator.")]
    assert names
    for name in names:
        raw = stored[name.replace("ema.generator.", "method.generator.")]
        assert stored[name].shape == raw.shape


# ------------------------------------------------------------------------ resuming


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs that others are compared with, made once."""
    made = {}

    def get(kind, dropout, num_steps):
        key = kind, dropout, num_steps
        if key not in made:
            out = tmp_path_factory.mktemp("whole")
            assert run(kind, out, dropout=dropout, num_steps=num_steps)
            made[key] = runs.final_state(out)
        return made[key]

    return get


def test_two_runs_are_equal_bit_for_bit(tmp_path, whole):
    run("images", tmp_path, dropout=0.2, num_steps=12)
    assert not runs.differing(runs.final_state(tmp_path), whole("images", 0.2, 12))


def test_seeds_matter(tmp_path, whole):
    run("images", tmp_path, dropout=0.2, num_steps=12, seed=1)
    assert runs.differing(runs.final_state(tmp_path), whole("images", 0.2, 12))


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, whole):
    """SIGKILL at an arbitrary instant after the first checkpoint; with dropout and flips."""
    steps = 60
    entry = {
        "kind": "images",
        "dropout": 0.2,
        "out": str(tmp_path),
        "trainer": {"num_steps": steps},
    }
    child = subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(entry)], env=ENV, stdout=subprocess.DEVNULL
    )
    try:
        folder, deadline = tmp_path / "checkpoints", time.monotonic() + 90
        while not list(folder.glob("step-*.safetensors")):
            assert child.poll() is None, "the child ended early"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.kill()
    assert child.wait() == -signal.SIGKILL
    stopped = int(runs.final_state(tmp_path)["step"])
    assert 0 < stopped < steps
    assert run("images", tmp_path, dropout=0.2, num_steps=steps, resume=True)
    end = runs.final_state(tmp_path)
    assert int(end["step"]) == steps
    assert not runs.differing(end, whole("images", 0.2, steps))


def test_killed_while_writing_a_checkpoint(tmp_path, whole, monkeypatch):
    """A half-written file is not taken for a checkpoint."""
    run("points", tmp_path, num_steps=8)
    newest = sorted((tmp_path / "checkpoints").glob("step-*.safetensors"))[-1]
    half = newest.with_name(f".{newest.name}.123.tmp")
    half.write_bytes(newest.read_bytes()[:100])
    newest.unlink()
    assert run("points", tmp_path, num_steps=12, resume=True)
    assert not runs.differing(runs.final_state(tmp_path), whole("points", 0.0, 12))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_run_resumes(tmp_path, whole, number):
    def report(progress):
        if progress.step == 5:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    assert run("points", tmp_path, num_steps=12, save_images=10**6, report=report) is False
    assert signal.getsignal(number) is before
    assert int(runs.final_state(tmp_path)["step"]) == 5
    assert run("points", tmp_path, num_steps=12, resume=True) is True
    assert not runs.differing(runs.final_state(tmp_path), whole("points", 0.0, 12))


def test_a_signal_at_the_last_step_is_a_finished_run(tmp_path):
    def report(progress):
        if progress.step == 12:
            signal.raise_signal(signal.SIGTERM)

    assert run("points", tmp_path, num_steps=12, report=report) is True


def test_resuming_nothing_starts_and_resuming_the_end_ends(tmp_path, whole):
    assert run("points", tmp_path, num_steps=12, resume=True)
    assert not runs.differing(runs.final_state(tmp_path), whole("points", 0.0, 12))
    assert run("points", tmp_path, num_steps=12, resume=True)
    assert not runs.differing(runs.final_state(tmp_path), whole("points", 0.0, 12))


def test_warm_averages_resume(tmp_path, tmp_path_factory):
    other = tmp_path_factory.mktemp("whole")
    run("points", other, num_steps=12, ema_warmup=True)
    run("points", tmp_path, num_steps=4, ema_warmup=True)
    run("points", tmp_path, num_steps=12, ema_warmup=True, resume=True)
    assert not runs.differing(runs.final_state(tmp_path), runs.final_state(other))


def test_the_newest_checkpoint_is_damaged(tmp_path):
    run("points", tmp_path, num_steps=8)
    newest = sorted((tmp_path / "checkpoints").glob("step-*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=newest.name):
        run("points", tmp_path, num_steps=12, resume=True)


def test_checkpoints_of_another_network_are_refused(tmp_path):
    run("points", tmp_path, num_steps=4)
    with pytest.raises(CheckpointError):
        run("images", tmp_path, num_steps=8, resume=True)


# ------------------------------------------------------------------ sharing the work


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_compute_what_one_computes(tmp_path, accumulate):
    """Same global batch, same losses: minibatch statistics, penalty and averages included."""
    one, two = tmp_path / "one", tmp_path / "two"
    options = {"num_steps": 10, "accumulate": accumulate}
    done = torchrun({"kind": "images", "out": str(two), "trainer": options})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("finished True") == 2
    run("images", one, num_steps=10)
    found, expected = runs.losses(two), runs.losses(one)
    assert len(found) == len(expected) == 10
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    found, expected = runs.final_state(two), runs.final_state(one)
    for name, value in expected.items():
        if name.startswith(("method.", "ema.")) and "query_key_value.bias" not in name:
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-3, msg=name)


def test_accumulation_computes_what_one_batch_computes(tmp_path):
    for n in (1, 2, 4):
        run("images", tmp_path / str(n), num_steps=6, accumulate=n)
    expected = runs.losses(tmp_path / "1")
    for n in (2, 4):
        for ours, theirs in zip(runs.losses(tmp_path / str(n)), expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)


def test_one_process_of_several_gets_a_signal(tmp_path):
    """All processes stop together, also when the signal reaches one, between two log lines."""
    entry = {
        "kind": "images",
        "out": str(tmp_path),
        "term_at": 6,
        "trainer": {"num_steps": 16, "log_every": 4, "save_images": 10**6},
    }
    done = torchrun(entry)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("finished False") == 2
    assert 6 <= int(runs.final_state(tmp_path)["step"]) < 16
    assert run("images", tmp_path, num_steps=16, resume=True)


def test_a_stream_goes_on_where_each_process_was(tmp_path):
    """One process is in its second epoch, the other in its first."""
    runs.write_stream(tmp_path / "data")
    entry = {"kind": "stream", "data": str(tmp_path / "data"), "resume": True}
    for name, lengths in (("whole", [9]), ("cut", [5, 9])):
        for num_steps in lengths:
            options = {"num_steps": num_steps, "save_images": 10**6}
            done = torchrun({**entry, "out": str(tmp_path / name), "trainer": options})
            assert done.returncode == 0, done.stderr[-3000:]
    whole, cut = (runs.final_state(tmp_path / name) for name in ("whole", "cut"))
    assert not runs.differing(whole, cut)
    data = runs.read_stream(tmp_path / "data")
    with pytest.raises(CheckpointError, match="streamed its data to 2 processes"):
        run("images", tmp_path / "cut", data=data, num_steps=10, resume=True)


def test_processes_that_would_not_train_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE=2 processes were launched"):
        run("points", tmp_path, num_steps=2)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------- failing well


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_checkpoint(tmp_path, whole):
    data = runs.make_data("images")
    data.on_fetch = lambda call, x0: x0 * float("nan") if call == 7 else x0
    with pytest.raises(NumericalError, match="not finite at step 6"):
        run("images", tmp_path, dropout=0.2, num_steps=12, data=data)
    state = runs.final_state(tmp_path)
    assert int(state["step"]) == 4
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())
    assert run("images", tmp_path, dropout=0.2, num_steps=12, resume=True)
    assert not runs.differing(runs.final_state(tmp_path), whole("images", 0.2, 12))


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    """A gradient may break the weights while every loss was finite."""
    method = runs.make_method("images")
    weight, calls = next(method.generator.parameters()), []

    def poison(gradient):
        calls.append(1)
        return gradient * float("nan") if len(calls) == 8 else gradient

    weight.register_hook(poison)
    with pytest.raises(NumericalError, match=r"generator.* is not finite after step 8"):
        run("images", tmp_path, method=method, num_steps=8, keep=1)
    state = runs.final_state(tmp_path)
    assert int(state["step"]) == 4
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


def test_a_second_signal_stops_at_once(tmp_path):
    data = runs.make_data("images")

    def hurry(call, x0):
        if call == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return x0

    data.on_fetch = hurry
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("images", tmp_path, data=data)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_networks_are_given_back_after_an_error(tmp_path):
    method, data = runs.make_method("images"), runs.make_data("images")
    networks = method.generator, method.discriminator
    data.on_fetch = lambda call, x0: x0 * float("inf")
    with pytest.raises(NumericalError):
        run("images", tmp_path, method=method, data=data)
    assert (method.generator, method.discriminator) == networks


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_old_checkpoints_are_removed(tmp_path, keep):
    run("points", tmp_path, num_steps=12, save_images=32, keep=keep)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    steps = [2, 4, 6, 8, 10, 12][-keep:]
    assert names == [f"step-{step:09d}.safetensors" for step in steps]


def test_a_run_is_not_overwritten(tmp_path):
    run("points", tmp_path, num_steps=4)
    before = runs.final_state(tmp_path)
    with pytest.raises(CheckpointError, match=r"already holds a training run.*--resume"):
        run("points", tmp_path, num_steps=8)
    assert not runs.differing(runs.final_state(tmp_path), before)


def test_export_sees_averaged_networks(tmp_path):
    seen = []

    def export(path, method):
        assert isinstance(method, Method)
        assert not method.generator.training
        seen.append((path, {k: v.clone() for k, v in method.generator.state_dict().items()}))

    method = runs.make_method("points")
    run("points", tmp_path, method=method, num_steps=8, export=export)
    assert [path for path, _ in seen] == [tmp_path / "model.safetensors"] * 2
    stored = runs.final_state(tmp_path)
    for name, value in seen[-1][1].items():
        assert torch.equal(value, stored[f"ema.generator.{name}"])
    raw = method.generator.state_dict()
    assert any(not torch.equal(value, raw[name]) for name, value in seen[-1][1].items())


def test_sample_grids_do_not_disturb_training(tmp_path, whole):
    run("images", tmp_path, dropout=0.2, num_steps=12, sample_images=48, num_samples=4)
    assert not runs.differing(runs.final_state(tmp_path), whole("images", 0.2, 12))
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [f"{n:012d}.png" for n in (48, 96, 144, 192)]


def test_logging_does_not_disturb_training(tmp_path, whole):
    run("images", tmp_path, dropout=0.2, num_steps=12, log_every=5)
    assert not runs.differing(runs.final_state(tmp_path), whole("images", 0.2, 12))
    assert [record["step"] for record in runs.losses(tmp_path)] == [5, 10, 12]


def test_logged_losses_are_averages_over_the_interval(tmp_path):
    for n in (1, 3):
        run("points", tmp_path / str(n), num_steps=6, log_every=n)
    each, mean = runs.losses(tmp_path / "1"), runs.losses(tmp_path / "3")
    for i, record in enumerate(mean):
        part = each[3 * i : 3 * i + 3]
        for name in ("generator/loss", "discriminator/real"):
            expected = sum(r[name] for r in part) / 3
            assert record[name] == pytest.approx(expected, rel=1e-5)


def test_progress_is_reported(tmp_path):
    seen = []
    run("points", tmp_path, num_steps=4, log_every=2, report=seen.append)
    assert [(p.step, p.images, p.total_images) for p in seen] == [(2, 32, 64), (4, 64, 64)]
    assert seen[-1].seconds_left == pytest.approx(0)
    assert seen[0].images_per_second > 0
    assert {"generator/loss", "discriminator/real"} <= set(seen[0].values)


def test_the_default_tracker_writes_events(tmp_path):
    run("points", tmp_path, num_steps=2, trackers=["tensorboard"])
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_the_configuration_travels_with_the_checkpoint(tmp_path):
    config = {"method": {"class_path": "DDGAN"}, "trainer": {"seed": 3}}
    runs.make_trainer(4).fit(
        runs.make_method("points"), runs.make_data("points"), tmp_path, config=config
    )
    newest = sorted((tmp_path / "checkpoints").glob("*.safetensors"))[-1]
    assert store.read(newest, "training").header["config"] == config


def test_gradients_are_clipped(tmp_path):
    """With a bound close to zero and no moments the weights hardly move under plain Adam."""
    seen = []
    real = torch.nn.utils.clip_grad_norm_

    def spy(parameters, bound, *args, **kwargs):
        seen.append(bound)
        return real(parameters, bound, *args, **kwargs)

    recipe = Adam(**runs.CUT, clip_norm=0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
        run(
            "points",
            tmp_path,
            num_steps=2,
            optimizers={"discriminator": recipe, "generator": Adam(**runs.CUT)},
        )
    assert seen == [0.25, 0.25]


@pytest.mark.parametrize(
    "name", ["num_images", "batch_size", "accumulate", "log_every", "save_images", "keep"]
)
def test_errors_name_the_argument(name):
    arguments = {"optimizers": {}, "num_images": 10, name: 0}
    with pytest.raises(ConfigError, match=name):
        Trainer(**arguments)


def test_phases_and_optimizers_must_agree(tmp_path):
    with pytest.raises(ConfigError, match="needs optimizers for"):
        run("points", tmp_path, optimizers={"generator": Adam(**runs.CUT)})
    extra = {name: Adam(**runs.CUT) for name in ("generator", "discriminator", "score")}
    with pytest.raises(ConfigError, match="needs optimizers for"):
        run("points", tmp_path, optimizers=extra)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch_size=16"):
        run("points", tmp_path, accumulate=3)
    with pytest.raises(ConfigError, match="multiple of 4"):
        run("images", tmp_path, batch_size=24, accumulate=4)


def test_half_precision_trains_and_stays_float32_where_it_matters(tmp_path):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    try:
        run("images", tmp_path, num_steps=4, precision="bf16")
    finally:
        AcceleratorState._reset_state()
    state = runs.final_state(tmp_path)
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float32}
    assert all(0 < record["generator/loss"] < 5 for record in runs.losses(tmp_path))


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_images_are_mirrored_left_to_right(flip, tmp_path, monkeypatch):
    """What the loss is given, row by row, against what the data gave."""
    data, fetched, seen = runs.Pictures(), [], []
    data.flip = flip
    data.on_fetch = lambda call, x0: fetched.append(x0.clone()) or x0
    plain = DDGAN.loss

    def spy(self, x0, label, phase, rng, step):
        if phase == "generator":
            seen.append(x0.clone())
        return plain(self, x0, label, phase, rng, step)

    monkeypatch.setattr(DDGAN, "loss", spy)
    runs.make_trainer(12).fit(runs.make_method("images"), data, tmp_path)
    given, used = torch.cat(fetched), torch.cat(seen)
    assert len(given) == len(used) == 12 * 16
    as_they_are = (used == given).flatten(1).all(1)
    mirrored = (used == given.flip(-1)).flatten(1).all(1)
    assert bool((as_they_are ^ mirrored).all())
    share = mirrored.double().mean()
    assert 0.35 < share < 0.65 if flip else share == 0
