"""`kdpipe labels advise`: bytes against error of every codec on a teacher's own answers, and what to put into the run file."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.commands.labels.arguments import AsJson, open_labels
from workers.commands.labels.progress import bar
from workers.commands.probe import label_probe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.labels.advice import Advice


def advise(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUNFILE|RECIPE|DIR",
            help="A run file (TOML) or a prepared recipe: its teacher is asked here. Or the folder of a run with dense labels.",
        ),
    ],
    rows: Annotated[int, typer.Option(help="Samples to measure on, the first there are.", min=1)] = 512,
    budget_bytes: Annotated[float | None, typer.Option(help="Bytes a label may take.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Measure every codec on a probe, and say which loses least within a budget. Writes nothing.

    With a run file or a recipe the teacher labels the probe there and then, as before a first run; with the folder of a run the labels
    that are there are taken, if they were stored with dense_fp16.
    """
    from pipeline.labels.advice import advise as advise_codec

    found = advise_codec(probe_NK := _probe(name, rows), float("inf") if budget_bytes is None else budget_bytes)
    typer.echo(json.dumps(_as_json(found, len(probe_NK))) if as_json else "\n".join(_lines(found, len(probe_NK))))


def _probe(name: str, rows: int) -> "NDArray[np.float32]":
    """float32 [N, K], N at most `rows`."""
    from pipeline.labels.stored import StoredLabels
    from pipeline.recipes import RECIPES
    from workers.driver.folder import RunFolder
    from workers.driver.request import RunRequest

    folder = Path(name)
    if folder.is_dir() and (name not in RECIPES or RunFolder(folder).origin_file.exists()):
        return StoredLabels(open_labels(folder)).reference(rows)
    request = RunRequest.of(name, None)
    with bar(request.folder.root, "probe") as progress:
        probe = label_probe(request.run, request.base, rows, progress=progress)
    if probe.left_out:
        typer.echo(f"{probe.left_out:,} rows without an answer are left out, the last for: {probe.reason}", err=True)
    return probe.log_probs_NK


def _lines(found: "Advice", rows: int) -> Iterator[str]:
    from pipeline.labels.codecs import keys_of

    yield f"{'codec':<20} {'bytes/label':>12} {'KL mean':>10} {'KL p99':>10} {'top-1 kept':>10}   on {rows:,} labels"
    for each in found.measured:
        name = " ".join([each.codec.name, *(f"{key}={value}" for key, value in asdict(each.codec).items() if key != "tail")])
        yield (
            f"{name:<20} {each.bytes_per_sample:>12,.1f} {each.kl_mean_nats:>10.2g} {each.kl_p99_nats:>10.2g} {each.agreement:>10.4f}"
            + ("   <- least error within the budget" if each is found.chosen else "")
        )
    if found.chosen is None:
        yield "no codec stays within the budget"
        return
    yield "in the run file:"
    yield "[labelling]"
    yield from (f"{key} = {json.dumps(value)}" for key, value in keys_of(found.chosen.codec).items())


def _as_json(found: "Advice", rows: int) -> dict[str, Any]:
    from pipeline.labels.codecs import keys_of

    return {
        "rows": rows,
        "measured": [_named(each) for each in found.measured],
        "chosen": found.chosen and _named(found.chosen),
        "labelling": found.chosen and keys_of(found.chosen.codec),
    }


def _named(measured: Any) -> dict[str, Any]:
    return asdict(measured) | {"codec": measured.codec.name, "options": asdict(measured.codec)}
