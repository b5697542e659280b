"""Speed, memory and floors of the published CIFAR-10 networks on one GPU, measured in one run.

Prints JSON. Every method of the trilemma is built by its recipe and trained for a few steps as the
trainer does it (forward, backward, optimiser, average) on a fixed random batch, then sampled from;
rows differ in layout, precision and compilation. Beside each time stand two floors: the counted
floating-point operations at the rate of a large matrix product, and the bytes of weights,
gradients and moments at the rate of a large copy, both measured in the same run. A row that fails
says so, and the others go on.

    python benchmarks/gpu.py --out gpu.json --profile gpu-profile.txt
"""

import argparse
import contextlib
import copy
import datetime
import gc
import json
import platform
import shlex
import signal
import statistics
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

import torch
import yardstick
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trilemma.config import build_method, load_recipe, override, resolve
from trilemma.methods.base import channels_last
from trilemma.rng import BatchRng
from trilemma.samplers import Ancestral
from trilemma.training import EMA, Adam

RECIPES = {"ddgan": "ddgan-cifar10", "cld": "cld-cifar10", "lsgm": "lsgm-cifar10-balanced"}
DATASHEET = 989e12
"""Dense bf16 FLOP/s of an H100 SXM."""
TOP = 12
"""Kernels in a table."""
SMALL = (2, 4)
"""Batches at which operations are counted."""

ROWS = {
    "plain eager float32": {"is_plain": True},
    "ours float32": {},
    "ours float32, TF32 on": {"tf32": True},
    "ours bf16 channels-last": {"bf16": True},
    "ours bf16 channels-last compiled": {"bf16": True, "compile": True},
}
NOTES = {
    "training": "ms of one optimiser step on every phase: forward, backward, clipping, optimiser, "
    "average; random data that stay on the device; a penalty R1 weighted by its interval",
    "sampling": "ddgan: all calls of one batch of images; else one call of the score network, and "
    "its rate in images x calls per second",
    "flop": "by torch.utils.flop_counter: convolutions, matrix products and attention, forward and "
    "backward of all networks of a step (2 per multiply-add), eager float32; no elementwise work",
    "arithmetic_floor_ms": "FLOP of the batch / measured bf16 matmul rate",
    "memory_floor_ms": "training: per trained parameter 40 bytes (float32 weights read forward, "
    "backward and by the optimiser, written once; gradients written and read; two moments read and "
    "written), per averaged one 8 more; sampling: weights read once a call; over the measured copy "
    "bandwidth. Activations are left out",
    "host_ms": "time to issue one step; close to ms where launches are the limit (or the queue "
    "is full)",
    "timing": "median of times between events, recorded back to back, one synchronisation at the "
    "end",
}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--methods", default="ddgan,cld,lsgm")
    parser.add_argument("--rows", help="parts of names of rows to measure, by comma; all")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compiled rows too, at the end")
    parser.add_argument("--cudnn-benchmark", action="store_true")
    parser.add_argument("--limit", type=float, default=150, help="seconds for one row")
    parser.add_argument("--budget", type=float, default=420, help="seconds; no row starts later")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD.KEY=VALUE")
    parser.add_argument("--profile", help="file for the tables of kernels; else in the JSON")
    parser.add_argument("--out", help="file for the JSON, written anew after every row")
    parser.add_argument("--commit", help="recorded as it is")
    return parser.parse_args()


def load(name, settings):
    """Resolved recipe of a method."""
    config = load_recipe(RECIPES[name])
    for setting in settings:
        key, _, value = setting.partition("=")
        owner, _, key = key.partition(".")
        if owner == name:
            override(config, key, value)
    return resolve(config)


class Training:
    """Steps as ``Trainer`` takes them, without data, logs and checkpoints."""

    def __init__(self, method, config, batch, device):
        trainer = config["trainer"]
        self.method, self.batch, self.device = method.train(), batch, device
        self.networks = method.optimizer_networks()
        self.recipes = {key: Adam(**trainer["optimizers"][key]) for key in self.networks}
        self.optimizers = {
            key: self.recipes[key].build(
                [p for name in names for p in method.get_submodule(name).parameters()]
            )
            for key, names in self.networks.items()
        }
        self.emas = {
            name: EMA(
                method.get_submodule(name), trainer["ema_decay"], warmup=trainer["ema_warmup"]
            )
            for name in method.averaged
        }
        self.x0 = torch.rand(batch, *method.event_shape, device=device) * 2 - 1

    def __call__(self, step):
        torch.manual_seed(step)
        for phase, trained in self.method.phases.items():
            self.method.train_only(phase)
            rng = BatchRng(step, self.batch, device=self.device)
            self.method.loss(self.x0, None, phase, rng, step).total.backward()
            for key, names in self.networks.items():
                if set(names) <= set(trained):
                    self.descend(self.recipes[key], self.optimizers[key])
        for name, ema in self.emas.items():
            ema.update(self.method.get_submodule(name))

    def descend(self, recipe, optimizer):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(1000 * self.batch)
        if recipe.clip_norm:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def sampling(name, method, batch, device):
    """A function that samples images (ddgan), or calls the score network once."""
    method.eval().requires_grad_(False)
    rng = BatchRng(0, batch, device=device)
    u = rng.normal(method.process.num_blocks, *method.state_shape)
    denoiser = method.denoiser()
    if name == "ddgan":
        sampler, grid = Ancestral(), method.grid()
        return lambda: sampler.run(denoiser, u, grid, rng)

    def call():
        with torch.no_grad():
            return denoiser.output(u, 0.5)

    return call


def steps_of(method):
    """Index of a step and its share of all steps: with the penalty R1, and without."""
    if not getattr(method, "r1_weight", 0) or method.r1_every == 1:
        return {0: 1.0}
    return {1: 1 - 1 / method.r1_every, 0: 1 / method.r1_every}


def trained_networks(method):
    return sorted({name for names in method.phases.values() for name in names})


def as_float32(value):
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, tuple | list):
        items = [as_float32(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def cast(network, device):
    """Run a network's forward pass in bf16 where autocast sees fit; results are float32."""
    forward = network.forward

    def wrapped(*args, **kwargs):
        with torch.autocast(device.type, torch.bfloat16):
            return as_float32(forward(*args, **kwargs))

    network.forward = wrapped


def prepare(name, method, config, row, batch, device):
    """A copy of the method for one row, and its training step."""
    if row.get("is_plain"):
        method = yardstick.like(method) if name == "ddgan" else copy.deepcopy(method)
        method.to(device)
    else:
        method = channels_last(copy.deepcopy(method).to(device))
    use_tf32(row.get("tf32", False))
    train = Training(method, config, batch, device)
    for network in map(method.get_submodule, trained_networks(method)):
        if row.get("compile"):
            from trilemma.training.trainer import _compile  # as the trainer compiles

            _compile(network)
        if row.get("bf16"):
            cast(network, device)
    return method, train


def use_tf32(on):
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(function, args, device):
    """Median milliseconds of a call, and the host's milliseconds to issue it."""
    for _ in range(args.warmup):
        function()
    synchronise(device)
    started = time.perf_counter()
    if device.type != "cuda":
        marks = [started]
        for _ in range(args.repeats):
            function()
            marks.append(time.perf_counter())
        times = [1000 * (b - a) for a, b in pairwise(marks)]
        return statistics.median(times), 1000 * (marks[-1] - started) / args.repeats
    events = [torch.cuda.Event(enable_timing=True) for _ in range(args.repeats + 1)]
    events[0].record()
    for event in events[1:]:
        function()
        event.record()
    issued = time.perf_counter()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) for a, b in pairwise(events)]
    return statistics.median(times), 1000 * (issued - started) / args.repeats


def fresh_memory(device):
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mb(device):
    return round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None


def machine_rates(device):
    """Matrix products and copies of this machine, in FLOP/s and bytes/s."""
    is_gpu = device.type == "cuda"
    n, size, count = (8192, 2**30, 20) if is_gpu else (512, 2**24, 3)
    options = argparse.Namespace(warmup=5, repeats=count)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    product, _ = timed(lambda: torch.mm(a, b), options, device)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied, _ = timed(lambda: target.copy_(source), options, device)
    return {
        "matmul": f"{n}^3, bf16",
        "matmul_flop_per_second": 2 * n**3 / (product / 1000),
        "copy": f"{size} bytes, read and written",
        "copy_bytes_per_second": 2 * size / (copied / 1000),
        "datasheet_flop_per_second": DATASHEET,
    }


def flop_of(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def count(name, method, config, args, device):
    """FLOP per image, and parameters.

    Counted at two small batches: what does not depend on the batch is shared by its images.
    """
    training, sampled = [], []
    for batch in SMALL:
        copied, train = prepare(name, method, config, {}, batch, device)
        train(1)  # power iterations are longer at their first call
        shares = steps_of(copied).items()
        training.append(sum(share * flop_of(lambda s=s, t=train: t(s)) for s, share in shares))
        sampled.append(flop_of(sampling(name, copied, batch, device)))

    def per_image(counts):
        slope = (counts[1] - counts[0]) / (SMALL[1] - SMALL[0])
        return slope + (counts[0] - slope * SMALL[0]) / args.batch

    def parameters(names):
        return sum(p.numel() for n in names for p in method.get_submodule(n).parameters())

    return {
        "parameters": {n: parameters([n]) for n in trained_networks(method)},
        "trained_parameters": parameters(trained_networks(method)),
        "averaged_parameters": parameters(method.averaged),
        "training_flop_per_image": per_image(training),
        "sampling_flop_per_image": per_image(sampled),
    }


def describe(ms, host, flop, moved, batch, rates):
    """One measured time beside its floors."""
    per_second = flop * batch / (ms / 1000)
    matmul = rates["matmul_flop_per_second"]
    return {
        "images_per_second": round(batch / ms * 1000, 2),
        "ms": round(ms, 3),
        "host_ms": round(host, 3),
        "arithmetic_floor_ms": round(1000 * flop * batch / matmul, 3),
        "memory_floor_ms": round(1000 * moved / rates["copy_bytes_per_second"], 3),
        "model_flop_per_second": per_second,
        "share_of_matmul": round(per_second / matmul, 4),
        "share_of_datasheet": round(per_second / DATASHEET, 4),
    }


def measure(result, name, method, config, row, facts, args, device, rates):
    """Fill in one row: training, then sampling."""
    method, train = prepare(name, method, config, row, args.batch, device)
    if row.get("compile"):
        started = time.perf_counter()
        for step in steps_of(method):
            train(step)
        synchronise(device)
        result["compile_seconds_training"] = round(time.perf_counter() - started, 1)
    found = {step: timed(lambda s=step: train(s), args, device) for step in steps_of(method)}
    shares = steps_of(method)
    ms, host = (sum(shares[s] * found[s][i] for s in found) for i in (0, 1))
    moved = 40 * facts["trained_parameters"] + 8 * facts["averaged_parameters"]
    flop = facts["training_flop_per_image"]
    result["training"] = describe(ms, host, flop, moved, args.batch, rates)
    if len(found) > 1:
        result["training"]["ms_without_penalty"] = round(found[1][0], 3)
        result["training"]["ms_with_penalty"] = round(found[0][0], 3)
    result["training"]["peak_memory_mb"] = peak_mb(device)
    train.optimizers.clear()
    train.emas.clear()
    fresh_memory(device)
    sample = sampling(name, method, args.batch, device)
    if row.get("compile"):
        started = time.perf_counter()
        sample()
        synchronise(device)
        result["compile_seconds_sampling"] = round(time.perf_counter() - started, 1)
    ms, host = timed(sample, args, device)
    calls = method.default_steps if name == "ddgan" else 1
    moved = 4 * facts["averaged_parameters"] * calls
    flop = facts["sampling_flop_per_image"]
    result["sampling"] = {"calls": calls} | describe(ms, host, flop, moved, args.batch, rates)
    result["sampling"]["images_x_calls_per_second"] = round(args.batch * calls / ms * 1000, 2)
    result["sampling"]["peak_memory_mb"] = peak_mb(device)


def profiled(name, method, config, args, device):
    """Table of the kernels, and of the operators, of one bf16 training step."""
    from torch.profiler import ProfilerActivity, profile

    method, train = prepare(name, method, config, {"bf16": True}, args.batch, device)
    for _ in range(max(args.warmup, 1)):
        train(1)
    synchronise(device)
    is_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    started = time.perf_counter()
    with profile(activities=activities) as found:
        train(1)
        synchronise(device)
    wall = 1000 * (time.perf_counter() - started)
    lines = []
    for title, wanted in (("kernels", True), ("operators", False)):
        rows = []
        for event in found.key_averages():
            is_kernel = "CUDA" in str(event.device_type)
            is_range = getattr(event, "is_user_annotation", False) or event.key.startswith(
                ("Optimizer.", "ProfilerStep", "Torch-Compiled", "Command Buffer")
            )
            if is_gpu:
                time_us = getattr(event, "self_device_time_total", 0)
            else:
                time_us = event.self_cpu_time_total
            if is_kernel == wanted and not is_range and time_us > 0:
                rows.append((time_us / 1000, event.count, event.key))
        total = sum(ms for ms, _, _ in rows)
        number = sum(n for _, n, _ in rows)
        lines.append(
            f"{name}, {title}: {total:.2f} ms in {number} calls; wall {wall:.2f} ms under the "
            f"profiler, batch {args.batch}, one bf16 step without R1"
        )
        for ms, n, key in sorted(rows, reverse=True)[:TOP]:
            lines.append(f"{ms:10.3f} ms {100 * ms / total:6.2f} % {n:6d} x  {key[:110]}")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def limited(seconds):
    """Raise TimeoutError in the main thread after some seconds."""

    def stop(signum, frame):
        raise TimeoutError(f"longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def recorded(where, args, device):
    """Turn an exception into one line of a record, and note the seconds taken."""
    started = time.perf_counter()
    try:
        fresh_memory(device)
        with limited(args.limit):
            yield
    except Exception as error:
        text = str(error).strip().splitlines()
        where["error"] = f"{type(error).__name__}: {text[0][:300] if text else ''}"
    where["seconds"] = round(time.perf_counter() - started, 1)


def hardware(device):
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"


def main():
    args, began = parse(), time.perf_counter()
    warnings.simplefilter("ignore")
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    result = {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(device),
        "torch": torch.__version__,
        "command": shlex.join(["python", *sys.argv]),
        "commit": args.commit,
        "batch": args.batch,
        "notes": NOTES,
        "rates": {},
        "methods": {},
        "profile": {},
    }

    def save(message):
        result["seconds"] = round(time.perf_counter() - began, 1)
        print(f"{result['seconds']:7.1f} s  {message}", file=sys.stderr, flush=True)
        if args.out:
            Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
        if args.profile:
            Path(args.profile).write_text("\n".join(result["profile"].values()))

    use_tf32(False)
    with recorded(result["rates"], args, device):
        result["rates"] |= machine_rates(device)
    save("rates")
    made = {}
    for name in args.methods.split(","):
        entry = result["methods"][name] = {"recipe": RECIPES[name], "facts": {}, "rows": []}
        with recorded(entry["facts"], args, device):
            config = load(name, args.set)
            torch.manual_seed(0)
            method = build_method(config["method"])
            entry["facts"] |= count(name, method, config, args, device)
            made[name] = (method, config)
        if name == "ddgan" and name in made:
            check = entry["yardstick"] = {}
            with recorded(check, args, device):
                ours = copy.deepcopy(method).to(device).eval()
                plain = yardstick.like(method).to(device).eval()
                check["largest_difference"] = yardstick.agree(ours, plain, device)
            ours = plain = None
        save(f"{name}: facts {entry['facts'].get('error', '')}")

    def one(name, title):
        row = {"name": title}
        result["methods"][name]["rows"].append(row)
        if time.perf_counter() - began > args.budget:
            row["error"] = f"left out: more than {args.budget:g} s had passed"
        else:
            method, config = made[name]
            facts = result["methods"][name]["facts"]
            with recorded(row, args, device):
                settings = ROWS[title]
                rates = result["rates"]
                measure(row, name, method, config, settings, facts, args, device, rates)
        rate = row.get("training", {}).get("images_per_second")
        save(f"{name}: {title}: {rate} images/s {row.get('error', '')}")

    wanted = [
        title
        for title in ROWS
        if not args.rows or any(part.strip() in title for part in args.rows.split(","))
    ]
    for name in made:
        for title in wanted:
            if not ROWS[title].get("compile"):
                one(name, title)
        failed = {}
        with recorded(failed, args, device):
            table = profiled(name, *made[name], args, device)
        result["profile"][name] = f"{name}: {failed['error']}\n" if "error" in failed else table
        save(f"{name}: profile {failed.get('error', '')}")
    for name in made if args.compile else ():
        for title in wanted:
            if ROWS[title].get("compile"):
                torch._dynamo.reset()
                one(name, title)
    for entry in result["methods"].values():
        entry["ratios"] = ratios(entry["rows"])
    save("done")
    if args.profile:
        result["profile"] = "see the file of --profile"
    print(json.dumps(result, indent=2))


def ratios(rows):
    """Speed of every row over the first one's, where both were measured."""
    found = {}
    for row in rows[1:]:
        for kind in ("training", "sampling"):
            if kind in row and kind in rows[0]:
                both = (r[kind]["images_per_second"] for r in (row, rows[0]))
                ours, plain = both
                found[f"{row['name']}, {kind}"] = round(ours / plain, 2)
    return found


if __name__ == "__main__":
    main()
