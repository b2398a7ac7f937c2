"""The README's blocks that a program can say better: `python -m tests.kit.readme` writes them, a test compares them.

summary      docs/example-run.json (the run.json of a real `kdpipe run spam`) as the program prints it
help         `kdpipe --help`
exit-codes   the table of `pipeline.errors`
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner

import pipeline.errors
from pipeline.files import write_atomic

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
EXAMPLE = ROOT / "docs" / "example-run.json"


def blocks() -> Mapping[str, str]:
    """Name -> what belongs between its markers."""
    from workers.cli import app
    from workers.driver.rendering import render

    shown = CliRunner().invoke(app, ["--help"], prog_name="kdpipe", env={"COLUMNS": "110", "TERMINAL_WIDTH": "110"})
    assert shown.exit_code == 0, shown.output
    return {
        "summary": f"```text\n{render(json.loads(EXAMPLE.read_text()))}\n```",
        "help": f"```console\n$ kdpipe --help\n{shown.output.strip()}\n```",
        "exit-codes": _exit_codes(),
    }


def filled(text: str) -> str:
    """The text with every block as it must be. Raises KeyError for a block that nobody makes."""
    made = blocks()
    return re.sub(
        r"<!-- example:([\w-]+) -->\n.*?<!-- /example -->",
        lambda match: f"<!-- example:{match[1]} -->\n{made[match[1]]}\n<!-- /example -->",
        text,
        flags=re.S,
    )


def _exit_codes() -> str:
    assert pipeline.errors.__doc__
    rows = [line.strip() for line in pipeline.errors.__doc__.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return "\n".join("|" + "|".join("---" if set(cell) == {"-"} else f" {cell} " for cell in row) + "|" for row in cells)


if __name__ == "__main__":
    write_atomic(README, filled(README.read_text()).encode(), mode=0o644)
