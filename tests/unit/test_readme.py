"""The README says what the program says."""

import re
import tomllib

from tests.kit.readme import README, ROOT, filled
from workers.cli import app


def test_help_example_output_and_exit_codes_are_the_programs_own() -> None:
    text = README.read_text()
    assert text == filled(text), "`python -m tests.kit.readme` writes what the program says now"


def test_every_command_it_shows_exists() -> None:
    verbs = {info.name for info in app.registered_commands} | {info.name for info in app.registered_groups}
    shown = set(re.findall(r"kdpipe ([a-z]+)", " ".join(re.findall(r"```console\n(.*?)```", README.read_text(), re.S))))
    assert shown <= verbs
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\$ make ([a-z-]+)", README.read_text())) <= targets


def test_every_link_and_folder_it_names_is_there() -> None:
    text = README.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    tree = re.findall(r"^(?:  )?((?:[\w.]+/?(?:\.py)? )+)", re.findall(r"```text\npipeline/.*?```", text, re.S)[0], re.M)
    named = " ".join(tree).split()
    for package in ("pipeline", "workers"):
        there = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
        assert there <= set(named), f"not in the tree: {there - set(named)}"
    for name in named:
        if name.endswith(("/", ".py")):
            assert any((ROOT / parent / name).exists() for parent in ("", "pipeline", "workers", "docs")), name


def test_the_python_it_asks_for_is_the_one_the_package_requires() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"Python {required.removeprefix('>=')}" in README.read_text()
