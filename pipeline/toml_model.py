"""From TOML, with overrides, to a pydantic model, and from pydantic's complaints to ours: where, what was found, what was expected."""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import DESCRIBED, ConfigError, UnknownKeyError


class Section(BaseModel):
    """Base of all sections: frozen, strict about keys and types ("100" is no integer, true is no number, NaN and infinity are none)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def parsed(model: type[Model], text: str, *, where: str, overrides: Sequence[str] = ()) -> Model:
    """Raises ConfigError; for an unknown key it names the known ones. `overrides` are `key.path=value`."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(where, f"not TOML ({error})", "a run file", "`kdpipe init spam DIR` writes one to start from") from error
    for override in overrides:
        _apply(tree, override)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, model, where) from error


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, raw = override.partition("=")
    if not equals or not path:
        raise ConfigError("--set", repr(override), "key.path=value", "such as `--set students.small.steps=100`")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    *parents, leaf = path.strip().split(".")
    node = tree
    for parent in parents:
        below = node.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {path}", f"{parent!r} is a value", "a section", DESCRIBED)
        node = below
    node[leaf] = value


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> ConfigError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        return UnknownKeyError(".".join([where, *path[:-1]]), path[-1], _known_keys(model, path[:-1]))
    found = "nothing" if first["type"] == "missing" else f"{first['input']!r:.120}"
    if first["type"] == "value_error":
        found = str(first["ctx"]["error"])
        return ConfigError(".".join([where, *path]), found, "a value that fits", DESCRIBED)
    return ConfigError(".".join([where, *path]), f"found {found}", _wanted(first, path) or _expected(first["msg"]), DESCRIBED)


def _wanted(error: Any, path: Sequence[str]) -> str:
    """What pydantic would say in its own words and a run file's author would not: how a table is written, that a share is no percentage."""
    kind, found = error["type"], error["input"]
    if kind in ("dict_type", "mapping_type"):
        name, value = (found, "1.0") if isinstance(found, str) and found.isidentifier() else ("NAME", "VALUE")
        return f"a table, such as {{ {name} = {value} }}"
    if kind.startswith("model_"):
        return f"a section, [{'.'.join(path)}]"
    if kind == "less_than_equal" and error["ctx"]["le"] == 1 and 1 < found <= 100:
        return f"a share of at most 1: {found / 100:g} for {found:g} %"
    return ""


def _expected(said: str) -> str:
    """Pydantic's "Input should be a valid integer" as what belongs behind "expected"."""
    if said == "Field required":
        return "a value"
    what, _, rest = (said[:1].lower() + said[1:]).partition(" should ")
    rest = rest.removeprefix("be ")
    if not rest:
        return what
    if rest.startswith(("greater", "less")):
        return f"a number {rest}"
    verb, _, rest_of = rest.partition(" ")
    wording = {"have": "with", "match": "that matches"}
    return f"a {what} {wording[verb]} {rest_of}" if verb in wording else rest


def _known_keys(model: type[BaseModel], path: Sequence[str]) -> tuple[str, ...]:
    """Keys of the section at `path`, walking through optional and mapping annotations."""
    rest = list(path)
    while rest:
        annotation = model.model_fields[rest.pop(0)].annotation
        inner = _model_in(annotation)
        if inner is None:
            return ()
        if get_origin(annotation) is Mapping and rest:
            rest.pop(0)  # the user's own name in a mapping of sections
        model = inner
    return tuple(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _model_in(part)
        if found is not None:
            return found
    return None
