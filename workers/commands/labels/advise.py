"""`kdpipe labels advise`: bytes against error of every codec, on labels that are there."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels


def advise(
    directory: Folder,
    rows: Annotated[int, typer.Option(help="Labels to measure on, the first of the log.", min=1)] = 512,
    budget_bytes: Annotated[float | None, typer.Option(help="Bytes a label may take.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Measure every codec on stored labels, and say which loses least within a budget."""
    from pipeline.labels.advice import advise as advise_codec
    from pipeline.labels.stored import StoredLabels

    probe_NK = StoredLabels(open_labels(directory)).log_probs(rows)
    found = advise_codec(probe_NK, float("inf") if budget_bytes is None else budget_bytes)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"measured": [_named(each) for each in found.measured], "chosen": _named(found.chosen)}))
        return
    typer.echo(f"{'codec':<20} {'bytes/label':>12} {'KL mean':>10} {'KL p99':>10} {'top-1 kept':>10}   on {len(probe_NK):,} labels")
    for each in found.measured:
        name = " ".join([each.codec.name, *(f"{key}={value}" for key, value in asdict(each.codec).items() if key != "tail")])
        typer.echo(
            f"{name:<20} {each.bytes_per_sample:>12,.1f} {each.kl_mean_nats:>10.2g} {each.kl_p99_nats:>10.2g} {each.agreement:>10.4f}"
            + ("   <- least error within the budget" if each is found.chosen else "")
        )
    if found.chosen is None:
        typer.echo("no codec stays within the budget")


def _named(measured: Any) -> dict[str, Any] | None:
    return None if measured is None else asdict(measured) | {"codec": measured.codec.name, "options": asdict(measured.codec)}
