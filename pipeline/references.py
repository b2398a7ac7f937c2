"""Turning `module:callable` of a run file into the user's own function, from the user's own folder.

The folder is appended to the import path, never put in front, so whatever it holds cannot replace kdpipe's packages or the
standard library. A user's own `pipeline/` or `workers/` folder is searched after kdpipe's package of that name: its modules
can be imported, and none of ours is shadowed. What the callable returns is checked by the caller.
"""

import ast
import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import ConfigError
from pipeline.files import read_bounded

OUR_PACKAGES = ("pipeline", "workers")
MAX_SOURCE_BYTES = 4 * 2**20


class ReferenceNotFoundError(ConfigError):
    """A `module:callable` that names no module, no attribute, or something that cannot be called."""

    def __init__(self, where: str, found: str, expected: str, next_command: str = "correct `use`; docs/your-own.md shows how") -> None:
        super().__init__(where, found, expected, next_command)


class ReferenceBrokenError(ConfigError):
    """The user's own module raises when it is imported, or their callable when it is called. What it raised is the cause."""

    def __init__(self, where: str, found: str, expected: str, next_command: str = "correct it; docs/your-own.md shows how") -> None:
        super().__init__(where, found, expected, next_command)


def fault_of(error: BaseException, *, base: Path) -> str:
    """What was raised, and where in the user's own code, in one line."""
    place = ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name} line {error.lineno})"
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(base):
            place = f" ({path.relative_to(base)} line {line})"
    what = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(str(what).split())[:300]}{place}"


def import_reference(reference: str, *, base: Path, shipped: Iterable[str] = ()) -> Callable[..., Any]:
    """The callable that `module:callable` names, with `base` as the last place where modules are looked for.

    `shipped` are the bare names that would have done in its place, for the message.

    Raises ReferenceNotFoundError, and ReferenceBrokenError from whatever the user's own module raises.
    """
    module_name, colon, attribute = reference.partition(":")
    if not colon:
        known = ", ".join(sorted(shipped))
        expected = f"one of: {known}, or module:callable from your own folder" if known else "module:callable from your own folder"
        raise ReferenceNotFoundError(f"use = {reference!r}", "a name that kdpipe does not ship", expected)
    base = base.resolve()
    _open_path(base)
    module = _import(module_name, reference, base)
    _check_origin(module, reference, base)
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            public = ", ".join(sorted(known for known in vars(module) if not known.startswith("_"))) or "nothing"
            raise ReferenceNotFoundError(
                f"use = {reference!r}", f"module {module_name!r} ({_where(module)}) has no {attribute!r}", f"one of what it has: {public}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise ReferenceNotFoundError(f"use = {reference!r}", f"{attribute!r} is a {type(found).__name__}", "a function or class")
    callable_found: Callable[..., Any] = found
    return callable_found


def source_fingerprint(reference: str, *, base: Path) -> str:
    """A hash of the file that `module:callable` lives in and of every file under `base` that it imports, in turn.

    Found by parsing, so that it does not depend on what a process happens to have loaded. Hex, 128 bits.
    """
    base = base.resolve()
    waiting = [reference.partition(":")[0]]
    files: dict[str, bytes] = {}
    while waiting:
        module_name = waiting.pop()
        for path in _files_of(module_name, base):
            relative = path.relative_to(base).as_posix()
            if relative not in files:
                files[relative] = read_bounded(path, MAX_SOURCE_BYTES)
                package = module_name if path.name == "__init__.py" else module_name.rpartition(".")[0]
                waiting.extend(_imports(files[relative], package))
    digest = hashlib.blake2b(digest_size=16)
    for relative in sorted(files):
        digest.update(f"{len(relative)}:{relative}:{len(files[relative])}:".encode() + files[relative])
    return digest.hexdigest()


def source_of(use: str, *, base: Path) -> str:
    """`source_fingerprint` of a user's own callable; empty for a name that kdpipe ships. Imports nothing."""
    return source_fingerprint(use, base=base) if ":" in use else ""


def _open_path(base: Path) -> None:
    if str(base) not in sys.path:
        sys.path.append(str(base))
        importlib.invalidate_caches()
    for name in OUR_PACKAGES:
        theirs = base / name
        if theirs.is_dir():
            ours = importlib.import_module(name)
            if all(Path(place).resolve() != theirs for place in ours.__path__):
                ours.__path__.append(str(theirs))


def _import(module_name: str, reference: str, base: Path) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            there = ", ".join(sorted(path.stem for path in base.glob("*.py"))) or "none"
            raise ReferenceNotFoundError(
                f"use = {reference!r}", f"no module {module_name!r} in {base} (modules there: {there}) or installed", "a module"
            ) from error
        raise _broken(module_name, reference, error, base) from error
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in OUR_PACKAGES and (base / package).is_dir():
            raise ReferenceNotFoundError(
                f"use = {reference!r}",
                f"{error}: {error.name} is kdpipe's own, and {base / package} comes after it",
                "names in your folder that kdpipe does not have",
                f"rename that module of {base / package}",
            ) from error
        raise _broken(module_name, reference, error, base) from error
    except Exception as error:
        raise _broken(module_name, reference, error, base) from error


def _broken(module_name: str, reference: str, error: Exception, base: Path) -> ReferenceBrokenError:
    hint = f"correct {module_name}; docs/your-own.md shows how"
    if isinstance(error, ModuleNotFoundError):
        hint = f"install {error.name}, or correct {module_name}"
    return ReferenceBrokenError(f"use = {reference!r}", fault_of(error, base=base), "a module that imports", hint)


def _check_origin(module: ModuleType, reference: str, base: Path) -> None:
    """A module that is in `base` but was taken from elsewhere would run the wrong code in silence."""
    mine = list(_files_of(module.__name__, base))
    origin = getattr(module, "__file__", None)
    if mine and (origin is None or Path(origin).resolve() != mine[-1].resolve()):
        raise ReferenceNotFoundError(
            f"use = {reference!r}",
            f"{mine[-1]} is hidden by another module of that name ({_where(module)})",
            "a name of its own",
            f"rename {mine[-1].name}",
        )


def _where(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "built in")


def _files_of(module_name: str, base: Path) -> Iterator[Path]:
    """Files under `base` that importing the module would run: packages on the way, then the module itself."""
    folder = base
    *packages, last = module_name.split(".")
    for package in packages:
        folder = folder / package
        if (folder / "__init__.py").is_file() and package not in OUR_PACKAGES:
            yield folder / "__init__.py"
    for candidate in (folder / last / "__init__.py", folder / f"{last}.py"):
        if candidate.is_file() and module_name not in OUR_PACKAGES:
            yield candidate
            return


def _imports(source: bytes, package: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # importing it fails with a better message
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".") if package else []
            stem = ".".join(
                [*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])] if node.level else [node.module or ""]
            )
            if stem:
                yield stem
            yield from (f"{stem}.{alias.name}" if stem else alias.name for alias in node.names)
