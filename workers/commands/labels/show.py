"""`kdpipe labels show`: single samples, with what the teacher said of them."""

import json
import math
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.commands.labels.arguments import Folder, open_labels

if TYPE_CHECKING:
    from pipeline.labels.stored import StoredLabels, StoredSample

INDENT = "    "


def show(
    directory: Folder,
    rows: Annotated[int, typer.Option("--rows", "-n", help="At most so many samples, the first of the log.", min=1)] = 10,
    sample: Annotated[str | None, typer.Option(metavar="ID", help="The sample of that id.")] = None,
    row: Annotated[int | None, typer.Option(metavar="N", help="The sample at that global row.")] = None,
    of_class: Annotated[str | None, typer.Option("--class", metavar="C", help="Samples that the teacher gives that class.")] = None,
    least_sure: Annotated[bool, typer.Option("--least-sure", help="Samples of least margin between the two likeliest classes.")] = False,
    top: Annotated[int, typer.Option(help="Classes to name.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for scripts; nothing is cut.")] = False,
) -> None:
    """Show samples with their input, the likeliest classes, the evidence and where they lie; every shard checked on the way."""
    from pipeline.errors import ConfigError
    from pipeline.labels.stored import StoredLabels

    chosen = {"--sample": sample is not None, "--row": row is not None, "--class": of_class is not None, "--least-sure": least_sure}
    if sum(chosen.values()) > 1:
        raise ConfigError(
            "show",
            " and ".join(name for name, given in chosen.items() if given),
            f"one of {', '.join(chosen)}, or none",
            "`kdpipe labels show --help` describes them",
        )
    labels = StoredLabels(open_labels(directory), top=top)
    width = shutil.get_terminal_size().columns
    for found in _select(labels, rows, sample=sample, row=row, of_class=of_class, least_sure=least_sure):
        typer.echo(json.dumps(_plain(asdict(found)), allow_nan=False) if as_json else "\n".join(_lines(found, width)))


def _select(
    labels: "StoredLabels", rows: int, *, sample: str | None, row: int | None, of_class: str | None, least_sure: bool
) -> list["StoredSample"]:
    if sample is not None:
        return labels.called(sample)[:rows]
    if row is not None:
        return [labels.at(row)]
    if of_class is not None:
        return labels.of_class(of_class, rows)
    return labels.least_sure(rows) if least_sure else labels.first(rows)


def _lines(found: "StoredSample", width: int) -> list[str]:
    answer = [f"{printable(name)} {probability:.4f}" for name, probability in found.top]
    if found.tail > 0:
        answer.append(f"not recorded {found.tail:.4f}")
    evidence = [f"entropy {found.entropy:.3f} nats", f"margin {found.margin:.3f}"]
    if found.disagreement is not None:
        evidence.append(f"disagreement {found.disagreement:.3f}")
    if found.label is not None:
        evidence.append(f"the source says {printable(found.label)}")
    if found.agreement is not None:
        evidence.append(f"agreement {found.agreement:.3f}")
    if found.embedding is not None:
        evidence.append(f"embedding of {len(found.embedding)} numbers")
    place = ["no window yet" if found.window is None else f"window {found.window}", f"weight {found.weight:g}", found.shard]
    lines = [f"row {found.row} · {printable(found.sample_id)}"]
    lines += [INDENT + " · ".join(words) for words in (answer, evidence, place)]
    lines.insert(1, INDENT + _input(found.input, width - len(INDENT)))
    return [_cut(line, width) for line in lines]


def _input(value: Any, width: int) -> str:
    """The beginning of a text or of a list of numbers: no more is formatted than may fit."""
    if isinstance(value, str):
        return printable(value[:width]) + ("…" if len(value) > width else "")
    if isinstance(value, list):
        numbers = ", ".join(f"{number:.4g}" if isinstance(number, float) else printable(str(number)) for number in value[: width // 2])
        return f"{len(value)} values: {numbers}"
    return printable(str(value))


def _cut(line: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    return line if cell_len(line) <= width else set_cell_size(line, width - 1) + "…"


def printable(text: str) -> str:
    """The text with everything escaped that could move a cursor, change a colour or reorder what is read."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
