"""Every error of the tree, found by walking all modules: it crosses a process boundary whole, and has a documented exit code."""

import importlib
import inspect
import pickle
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import pipeline
import pipeline.errors
import workers
from pipeline.errors import KdpipeError

DOCUMENTED = {int(code) for code in re.findall(r"^\| (\d+) +\|", pipeline.errors.__doc__ or "", re.MULTILINE)}


@pytest.fixture(scope="module")
def errors() -> list[type[KdpipeError]]:
    """Every error class that any module of ours defines."""
    for package in (pipeline, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
    found: list[type[KdpipeError]] = []
    waiting: list[type[KdpipeError]] = [KdpipeError]
    while waiting:
        error = waiting.pop()
        found.append(error)
        waiting += error.__subclasses__()
    ours = {error for error in found if error.__module__.partition(".")[0] in ("pipeline", "workers")}
    return sorted(ours, key=lambda error: (error.__module__, error.__qualname__))


def made(error: type[KdpipeError]) -> KdpipeError:
    """An instance, with a plausible value for each parameter of its constructor."""
    init: Callable[..., Any] = error.__init__
    if init is Exception.__init__:
        return error("what happened")
    parameters = list(inspect.signature(init).parameters.values())[1:]
    hints = typing.get_type_hints(init)
    arguments = {p.name: plausible(hints.get(p.name, str)) for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    positional = [arguments.pop(p.name) for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return error(*positional, **arguments)


def plausible(hint: Any) -> Any:
    plain: dict[Any, Any] = {str: "a word", int: 7, float: 0.5, bool: True, bytes: b"\x07", Path: Path("a/path"), Any: "anything"}
    if hint in plain:
        return plain[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return arguments[0]
    if origin is dict or (isinstance(origin, type) and issubclass(origin, typing.Mapping)):
        return {plausible(arguments[0]): plausible(arguments[1])}
    if origin in (tuple, list, set, frozenset):
        items = [plausible(argument) for argument in arguments if argument is not ...]
        return origin(items)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return (plausible(arguments[0]),)
    if arguments:
        return plausible(arguments[0])
    if isinstance(hint, type) and issubclass(hint, BaseException):
        return hint("a cause")
    raise AssertionError(f"no plausible {hint!r}; teach tests/unit/test_errors.py to make one")


def test_every_error_arrives_whole_from_another_process(errors: list[type[KdpipeError]]):
    for error in errors:
        sent = made(error)
        arrived = pickle.loads(pickle.dumps(sent))
        assert type(arrived) is type(sent)
        assert str(arrived) == str(sent), error
        assert arrived.exit_code == sent.exit_code, error
        assert {name: repr(value) for name, value in vars(arrived).items()} == {name: repr(value) for name, value in vars(sent).items()}, (
            error
        )


def test_every_error_has_a_documented_exit_code_and_says_one_line(errors: list[type[KdpipeError]]):
    for error in errors:
        assert error.exit_code in DOCUMENTED | {1}, error
        nameless = error is KdpipeError or error.__name__.endswith("CrashedError")  # reports what nobody foresaw
        assert error.exit_code != 1 or nameless, f"{error}: derive from a family of pipeline.errors, which has a code"
        assert error.__doc__, error
        assert error.__name__.endswith("Error")
        assert str(made(error)).strip(), error
        assert "\n" not in str(made(error)), error


SAY_WHAT_ANOTHER_SAID = {"StoppedError", "OrchestratorRefusedError", "WriterClosedError"}
"""Nothing else was expected: the user stopped it, or another process says the whole sentence."""


def test_every_error_says_what_was_expected(errors: list[type[KdpipeError]]):
    named = [error for error in errors if error.__str__ is not Exception.__str__ and error.__name__ not in SAY_WHAT_ANOTHER_SAID]
    assert len(named) > 50
    assert [error.__name__ for error in named if "expected " not in str(made(error))] == []


def test_families_keep_their_exit_codes_apart():
    families = [family for family in KdpipeError.__subclasses__() if family.__module__ == "pipeline.errors"]
    codes = [family.exit_code for family in families]
    assert len(families) >= 10
    assert len(set(codes)) == len(codes)
