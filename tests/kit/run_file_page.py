"""docs/run-file.md, from the models in `pipeline.config`: `python -m tests.kit.run_file_page` writes it, a test compares it.

What a key means is the docstring under its field. The page holds nothing that is not in the models, so it cannot be out of date.
"""

import ast
import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline import config
from pipeline.files import write_atomic

PAGE = Path(__file__).parents[2] / "docs" / "run-file.md"
HEAD = """\
# The run file

A run file is TOML. A key that is not on this page is an error that names the known ones; so is a value of another type. Paths are
relative to the run file's folder. `kdpipe run FILE --set labelling.window_rows=512` overrides one key for one run (a value in TOML
syntax; a bare word is a string), and `kdpipe init RECIPE DIR` writes a commented file to start from. `NAME` stands for a name of
your choice: lower-case letters, digits, `_` and `-`. A *reference* is `module:callable` from your own folder, or the bare name of
something kdpipe ships.

This page is made from the code: `make docs` writes it, and a test compares it.
"""


def render() -> str:
    """The whole page, as Markdown."""
    paths: dict[type[BaseModel], list[str]] = {}
    for path, model in _sections(config.RunFile, ""):
        paths.setdefault(model, []).append(path)
    return "\n".join([HEAD, *(_table(where, model) for model, where in paths.items())])


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The model and those below it, each with its dotted path, in the order of the fields."""
    yield path, model
    for name, field in model.model_fields.items():
        inner = _inner_model(field.annotation)
        if inner is not None:
            below = f"{path}.{name}" if path else name
            yield from _sections(inner, below + ".NAME" if _is_mapping(field.annotation) else below)


def _table(paths: Sequence[str], model: type[BaseModel]) -> str:
    """One section; `paths` are all the places where it may stand."""
    documented = _attribute_docs(model)
    title = ", ".join(f"`[{path}]`" for path in paths if path) or "The top of the file"
    rows = [f"## {title}", ""]
    if model.__doc__:
        rows += [inspect.cleandoc(model.__doc__), ""]
    rows += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        meaning = documented.get(name, "")
        if _inner_model(field.annotation) is not None:
            below = f"{paths[0]}.{name}" if paths[0] else name
            meaning = f"{meaning} See `[{below}.NAME]`." if _is_mapping(field.annotation) else f"{meaning} See `[{below}]`."
        rows.append(f"| `{name}` | {_type(field)} | {_default(field)} | {meaning.strip()} |")
    return "\n".join(rows) + "\n"


def _attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the string literal under it."""
    body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        literal = below.value if isinstance(below, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(literal, ast.Constant):
            docs[field.target.id] = " ".join(str(literal.value).split())
    return docs


def _type(field: FieldInfo) -> str:
    patterns = [getattr(limit, "pattern", None) for limit in field.metadata]
    named = [name for name, known in _PATTERNS.items() if known in patterns]
    bounds = [
        f"{sign} {limit:g}" for part in field.metadata for key, sign in _SIGNS.items() if (limit := getattr(part, key, None)) is not None
    ]
    return ", ".join([*(named or [_type_name(field.annotation)]), *bounds])


def _pattern_of(annotation: Any) -> str:
    pattern: str = typing.get_args(annotation)[1].pattern
    return pattern


_PATTERNS = {"name": _pattern_of(config.Name), "reference": _pattern_of(config.Reference)}
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "at least"}
_NAMES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "true or false", Any: "anything"}


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{_toml(value)}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type_name(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}s"
    if _is_mapping(annotation):
        return "section" if _inner_model(annotation) else f"table of {_type_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _NAMES[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default is PydanticUndefined:
        return "**required**"
    if field.default is None:
        return "none"
    return "its defaults" if isinstance(field.default, BaseModel) else f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return str(value)


def _is_mapping(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_inner_model(part) for part in typing.get_args(annotation))
    return next((model for model in inner if model is not None), None)


if __name__ == "__main__":
    write_atomic(PAGE, render().encode(), mode=0o644)
