"""``trilemma evaluate`` and ``trilemma likelihood``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from trilemma.commands.common import (
    add_model,
    add_walk,
    check_counts,
    console,
    counting_bar,
    default_split,
    load_model,
    output_file,
    walk_of,
)
from trilemma.errors import ConfigError

if TYPE_CHECKING:
    from trilemma.metrics import Record

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    evaluate = commands.add_parser("evaluate", help="judge a model, or samples, against real data")
    add_model(evaluate)
    evaluate.add_argument("--data", required=True, help="real data, as for training")
    evaluate.add_argument("--split", help="split of the real data (train; test for digits)")
    evaluate.add_argument("-n", "--num", type=int, default=10_000, help="samples (10000)")
    add_walk(evaluate)
    evaluate.add_argument("--extractor", help="feature extractor (what suits the images)")
    evaluate.add_argument("--json", type=output_file, help="write the records to this file")
    evaluate.set_defaults(run=_evaluate, takes_overrides=True)

    likelihood = commands.add_parser(
        "likelihood",
        help="log-likelihood of real data under a model with a score, or in latents",
        description="Negative log-likelihood by the probability flow, in bits per dimension and "
        "nats. Images are dequantised uniformly. Langevin diffusion gives an upper bound, and so "
        "do latent models, whose decoder has a law of the data as they are.",
    )
    add_model(likelihood)
    likelihood.add_argument("--data", required=True, help="real data, as for training")
    likelihood.add_argument("--split", default="test", help="split of the real data (test)")
    likelihood.add_argument("-n", "--num", type=int, default=1000, help="data to use (1000)")
    likelihood.add_argument(
        "--divergence",
        default="hutchinson",
        choices=["hutchinson", "exact"],
        help="estimated by one probe, or exact at one backward pass per dimension (hutchinson)",
    )
    likelihood.add_argument(
        "--probe",
        default="rademacher",
        choices=["rademacher", "gaussian"],
        help="law of the probe (rademacher)",
    )
    likelihood.add_argument(
        "--tolerance", type=float, default=1e-5, help="of the ODE solver (1e-5)"
    )
    likelihood.add_argument(
        "--draws",
        type=int,
        default=1,
        help="draws of the latents per datum; more tighten the bound of a latent model (1)",
    )
    likelihood.add_argument("--seed", type=int, default=0, help="seed of noise and probes (0)")
    likelihood.add_argument("--batch-size", type=int, default=64, help="data per call (64)")
    likelihood.add_argument("--json", type=output_file, help="write the result to this file")
    likelihood.set_defaults(run=_likelihood)


def _evaluate(options: argparse.Namespace) -> int:
    from trilemma.checkpoints.store import write_bytes
    from trilemma.evaluation import evaluate_samples, read_npz, reference_data
    from trilemma.metrics import to_json
    from trilemma.pipeline import Pipeline
    from trilemma.report.measure import Protocol, unlike_digits

    check_counts(options, "num", "batch_size")
    walk = walk_of(options)
    is_file = options.model.endswith(".npz")
    samples = read_npz(options.model) if is_file else load_model(options)
    shape = samples.event_shape if isinstance(samples, Pipeline) else tuple(samples.shape[1:])
    card = samples.card if isinstance(samples, Pipeline) else None
    split = options.split or default_split(options.data)
    data = reference_data(options.data, split, shape, card=card)
    with counting_bar("sampling", options.num) as progress:
        records = evaluate_samples(
            samples,
            data,
            options.num,
            split=split,
            extractor=options.extractor,
            **walk,
            progress=progress,
        )
    console.print(_record_table(records))
    protocol = Protocol(options.data, split, options.num, extractor=options.extractor)
    if unlike_digits(data, protocol) is not None:
        console.print(
            "The features are those of digits, taken for the size of the pictures, and these real "
            "pictures show no digits: take --extractor efflite0, or fit features to them",
            soft_wrap=True,
        )
    if options.json:
        write_bytes(Path(options.json), to_json(records).encode())
        console.print(f"written: {options.json}")
    return 0


def _record_table(records: list[Record]) -> Table:
    """Records as a table, with the protocol that they share as its caption."""
    table = Table(box=None, pad_edge=False, title_justify="left", caption_justify="left")
    for name, justify in (("metric", "left"), ("value", "right"), ("real data score", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("better")
    for record in records:
        if record.low is None or record.high is None:
            spread = f" ± {record.error:.2g}" if record.error else ""
        else:
            spread = f" [{record.low:.3g}, {record.high:.3g}]"
        floor = "" if record.floor is None else f"{record.floor:.4g}"
        floor += "" if record.floor_error is None else f" ± {record.floor_error:.2g}"
        better = "lower" if record.lower_is_better else "higher"
        value = escape(f"{record.value:.4g}{spread}")  # brackets are markup to the console
        table.add_row(record.name, value, floor, better)
    first = records[0]
    held: dict[str, list[str]] = {}
    for record in records:
        if record.num_real:
            held.setdefault(f"{record.num_real} real ({record.split})", []).append(record.name)
    against = "; ".join(f"{', '.join(names)} against {real}" for real, names in held.items())
    against = f": {against}"
    if len(held) < 2:
        against = f" against {next(iter(held), 'the known modes')}"
    table.caption = (
        f"{first.num_fake} samples{against}, features "
        f"{first.extractor}: {first.preprocessing}; in brackets 95 % intervals"
    )
    return table


def _likelihood(options: argparse.Namespace) -> int:
    from trilemma.checkpoints.store import write_bytes
    from trilemma.evaluation import check_density, likelihood, reference_data

    check_counts(options, "num", "batch_size", "draws")
    if not options.tolerance > 0:
        raise ConfigError(f"--tolerance {options.tolerance} must be positive")
    pipeline = load_model(options)
    check_density(pipeline.method, options.draws)
    data = reference_data(options.data, options.split, pipeline.event_shape, card=pipeline.card)
    with counting_bar("integrating", min(options.num, len(data))) as progress:
        found = likelihood(
            pipeline,
            data,
            options.num,
            divergence=options.divergence,
            probe=options.probe,
            tolerance=options.tolerance,
            num_draws=options.draws,
            seed=options.seed,
            batch_size=options.batch_size,
            progress=progress,
        )
    for line in found.lines(options.split):
        console.print(line, soft_wrap=True)
    if options.json:
        write_bytes(Path(options.json), json.dumps(found.as_dict(), indent=2).encode())
        console.print(f"written: {options.json}")
    return 0
