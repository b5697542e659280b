"""25 Gaussians: modes covered and share of high-quality samples for T = 4 and T = 1.

Trains the recipe ``ddgan-25gaussians`` once per T on the CPU, all else equal, and prints JSON;
``--recipe ddgan-25gaussians-paper`` trains for the published 50,000 steps.
The wall time counts what else the machine does, the processor time does not.
``--picture`` draws data and samples beside each other. ``mode_kl`` is the divergence of the modes
nearest to the samples from uniform, in nats.

    python benchmarks/toy_grid25.py --steps 4 1 --json benchmarks/results/NAME.json
"""

import argparse
import datetime
import json
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from trilemma.config import build_recipe, load_recipe, override, resolve
from trilemma.data import Toy
from trilemma.evaluation import evaluate_samples
from trilemma.metrics import mode_statistics
from trilemma.pipeline import Pipeline, load, save_pipeline


def train(recipe, num_steps, num_images, seed, out):
    config = load_recipe(recipe)
    override(config, "method.num_steps", str(num_steps))
    override(config, "trainer.seed", str(seed))
    override(config, "trainer.trackers", "[]")
    if num_images:
        override(config, "trainer.num_images", str(num_images))
        for phase in ("generator", "discriminator"):
            override(config, f"trainer.optimizers.{phase}.decay_images", str(num_images))
    config = resolve(config)
    torch.manual_seed(seed)
    method, data, trainer = build_recipe(config)

    def export(path, averaged):
        save_pipeline(path, averaged, config["method"], data.event_shape)

    started, cpu = time.perf_counter(), time.process_time()
    trainer.fit(method, data, out, config=config, export=export)
    spent = {
        "training_seconds": round(time.perf_counter() - started),
        "training_cpu_seconds": round(time.process_time() - cpu),
    }
    return load(out / "model.safetensors"), data, trainer.num_images, spent


def judge(pipeline: Pipeline, toy: Toy, num: int, seed: int):
    points = pipeline.sample(num, seed=seed, batch_size=num)
    records = evaluate_samples(pipeline, toy, num, split="train", seed=seed, batch_size=num)
    nearest = torch.cdist(toy.to_data_units(points).double(), toy.modes).argmin(1)
    row = {record.name: record.value for record in records}
    return row | {"mode_kl": mode_statistics(nearest, len(toy.modes)).mode_kl}, points


def draw(panels, path, side=360, reach=5.0):
    """Scatter plots side by side, points in data units."""
    canvas = Image.new("RGB", (side * len(panels), side + 24), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (title, points) in enumerate(panels):
        pen.text((side * i + 8, 6), title, fill="black")
        for x, y in points.tolist():
            left = side * i + (x + reach) / (2 * reach) * side
            top = 24 + (reach - y) / (2 * reach) * side
            if side * i <= left < side * (i + 1) and 24 <= top < side + 24:
                pen.ellipse((left - 1, top - 1, left + 1, top + 1), fill=(30, 80, 160))
    canvas.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="ddgan-25gaussians")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 1], help="values of T")
    parser.add_argument("--num-images", type=int, help="training length; the recipe's by default")
    parser.add_argument("--samples", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    real = Toy("grid25", scale=1.0).fetch(range(args.samples)).x0
    rows, panels = [], [("data", real)]
    for num_steps in args.steps:
        with tempfile.TemporaryDirectory() as folder:
            pipeline, toy, num_images, spent = train(
                args.recipe, num_steps, args.num_images, args.seed, Path(folder)
            )
        found, points = judge(pipeline, toy, args.samples, args.seed)
        rows.append({"T": num_steps} | spent | found)
        panels.append((f"T = {num_steps}", toy.to_data_units(points)))
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "date": datetime.date.today().isoformat(),
        "recipe": args.recipe,
        "torch": torch.__version__,
        "threads": args.threads,
        "num_images": num_images,
        "samples": args.samples,
        "rows": rows,
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    if args.picture:
        draw(panels, args.picture)


if __name__ == "__main__":
    main()
