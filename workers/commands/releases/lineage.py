"""`kdpipe releases lineage`: from a release back to what it was made of."""

import json
from typing import TYPE_CHECKING

import typer

from workers.commands.releases.arguments import AsJson, Folder, Name
from workers.commands.repository import repository
from workers.commands.tables import table_console

if TYPE_CHECKING:
    from rich.tree import Tree

    from workers.driver.ancestry import Ancestor


def lineage(directory: Folder, name: Name, as_json: AsJson = False) -> None:
    """Walk back from a release to its teacher, labels, config, the gate's evidence, and the releases it grew from."""
    from workers.driver.ancestry import ancestry
    from workers.driver.catalogue import find, releases_of

    folder = repository(directory)
    chain = list(ancestry(folder, find(releases_of(folder), name)))
    if as_json:
        typer.echo(json.dumps([{**vars(a), "origin": a.origin.to_json() if a.origin else None} for a in chain]))
        return
    if chain:
        table_console().print(_tree(chain))
    else:
        typer.echo(f"nothing is known of {name}: neither its bundle nor a lineage is here")


def _tree(chain: "list[Ancestor]") -> "Tree":
    from rich.text import Text
    from rich.tree import Tree

    top: Tree | None = None
    at: Tree | None = None
    for ancestor in chain:
        label = Text(f"{ancestor.path or 'a release'} · sha256 {ancestor.digest[:12]}")
        at = Tree(label) if at is None else at.add(Text("grew from ") + label)
        top = top or at
        for line in _lines(ancestor):
            last = at.add(Text(line))
        for line in _gate_lines(ancestor):
            last.add(Text(line))
    assert top is not None
    assert at is not None
    if chain[-1].parent:
        at.add(Text(f"grew from sha256 {chain[-1].parent[:12]}, of which nothing is known here"))
    return top


def _lines(ancestor: "Ancestor") -> list[str]:
    lines = [f"teacher {ancestor.teacher}"]
    origin = ancestor.origin
    if origin is None:
        return [*lines, "labels, config and the gate's report are not known: no bundle that says so is here"]
    windows = f"windows {origin.first_window} to {origin.stop_window - 1} of log {origin.log[:12]}" if origin.stop_window else "no window"
    lines.append(f"labels: {windows}, {origin.rows:,} seen in generation {origin.generation}")
    chosen = {key: value for key, value in sorted(origin.config.items()) if value not in (None, {}, [])}
    lines.append("config: " + ", ".join(f"{key}={_short(value)}" for key, value in chosen.items()))
    lines.append(f"gate: {origin.gate.get('summary', '')} (its samples had decided {ancestor.gate_uses} times about this student)")
    return lines


def _gate_lines(ancestor: "Ancestor") -> list[str]:
    """Of the gate's report, which is the last of `_lines`."""
    judged = [line for line in ancestor.origin.gate.get("lines", ()) if line.get("passed") is not None] if ancestor.origin else []
    return [f"{'pass' if line['passed'] else 'FAIL'} {line['name']} {_short(line['value'])} {line['says']}".rstrip() for line in judged]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, dict | list) else str(value)
