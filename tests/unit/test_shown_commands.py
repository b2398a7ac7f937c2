"""Every `kdpipe ...` that a message or a page shows is one that the program takes: its verbs, its options, as many arguments."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from workers.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))
CODE = [path for package in ("pipeline", "workers") for path in sorted((ROOT / package).rglob("*.py"))]
SHOWN = re.compile(r"`kdpipe\s+([^`]+)`")
FILLED = "VALUE"
"""Stands for what a message fills in."""


def in_strings(code: str) -> Iterator[str]:
    """Text of every string of a module, with FILLED for what an f-string fills in."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else FILLED for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def in_consoles(page: str) -> Iterator[str]:
    """Commands of ```console blocks, without what follows them on their line."""
    for block in re.findall(r"```console\n(.*?)```", page, re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield from re.findall(r"kdpipe ([^&|#]+)", line)


def shown() -> list[tuple[str, str]]:
    """(file, command without `kdpipe`), each once."""
    found = [(path, command) for path in CODE for text in in_strings(path.read_text()) for command in SHOWN.findall(text)]
    found += [(path, command) for path in PAGES for command in [*SHOWN.findall(path.read_text()), *in_consoles(path.read_text())]]
    return sorted({(str(path.relative_to(ROOT)), " ".join(command.split())) for path, command in found})


def problem_of(command: str) -> str:
    """What the program would not take of a command; empty where it takes it. `a|b` is either; `[x]` is optional; `...` is anything."""
    words = [word for word in shlex.split(command.replace("[", " ").replace("]", " "), comments=True) if word != "..."]
    at: Any = typer.main.get_command(app)
    while hasattr(at, "commands") and words and not words[0].startswith("-"):
        unknown = [name for name in words[0].split("|") if name not in at.commands]
        if unknown:
            return f"no verb {unknown[0]!r}"
        at = at.commands[words.pop(0).split("|")[0]]
    options = {name: p for p in at.params if p.param_type_name == "option" for name in [*p.opts, *p.secondary_opts]} | {"--help": None}
    arguments = [p for p in at.params if p.param_type_name == "argument"]
    given = 0
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            given += 1
            continue
        name, equals, _ = word.partition("=")
        for one in name.split("|"):
            if one not in options:
                return f"no option {one!r}"
        option = options[name.split("|")[0]]
        if option is not None and not option.is_flag and not equals and words and not words[0].startswith("-"):
            words.pop(0)
    most = float("inf") if any(p.nargs == -1 for p in arguments) else len(arguments)
    return f"{given} arguments, it takes {most}" if given > most else ""


@pytest.mark.parametrize(("where", "command"), shown(), ids=lambda value: value.replace(" ", "_"))
def test_a_command_that_is_shown_is_one_that_the_program_takes(where: str, command: str) -> None:
    assert problem_of(command) == "", f"{where} shows `kdpipe {command}`"


@pytest.mark.parametrize("command", ["labels frobnicate DIR", "run spam --dri X", "edge run FOLDER", "status DIR OTHER", "nothing"])
def test_what_the_program_does_not_take_is_seen(command: str) -> None:
    assert problem_of(command)


def test_messages_and_pages_show_some() -> None:
    places = {where.partition("/")[0] for where, _ in shown()}
    assert places >= {"README.md", "docs", "pipeline", "workers"}
