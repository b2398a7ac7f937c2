"""Samples in files: one file, a folder that may grow, or a glob.

A part is a file; its identity is its name below the source's root, a hash of its bytes and how many they are, so a moved folder keeps
its identities and a changed file gets a new one. A file of lines that was only appended to still holds its older identities: they say how
many bytes to hash. Files that somebody is still writing are not seen: those whose names start with
a dot (which `.tmp-*` do), and those that came or changed since the first look and look different at every look. The first
look takes everything as it is. Nothing here is written.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import SourceSection
from pipeline.errors import DESCRIBED, ConfigError, UnknownKeyError
from pipeline.sources.formats import FORMATS, Format
from pipeline.sources.looks import Looks, State, at_once, digest_of, state_of
from pipeline.sources.source import FormatUnknownError, Part, PartChangedError, Source, SourceMissingError


def open_files(section: SourceSection, base: Path) -> Source:
    """Files of `section.path`, relative to `base`. `options.carry` lists further columns of names to read.

    Raises SourceMissingError, FormatUnknownError, ConfigError.
    """
    check_options(section, ("carry",))
    source = FileSource(section, base)
    source.check()
    return source


def check_options(section: SourceSection, known: Sequence[str]) -> None:
    """Raises ConfigError for an option that is not known, or a `carry` that is no list of names."""
    unknown = sorted(set(section.options) - set(known))
    if unknown:
        raise UnknownKeyError("options of a source of files", unknown[0], known)
    carry = section.options.get("carry", [])
    if not isinstance(carry, list | tuple) or not all(isinstance(name, str) for name in carry):
        raise ConfigError("options.carry of a source of files", f"found {carry!r}", "a list of column names", DESCRIBED)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A file as it was when it was read: its state on disk and what follows from its bytes."""

    state: State
    part: Part
    reader: Format


class FileSource:
    """A `Source` over files. Hashes a file once and again whenever it looks different on disk."""

    def __init__(self, section: SourceSection, base: Path) -> None:
        self._section = section
        self._base, self._path = base, base / (section.path or "")
        self._seen: dict[Path, _Seen] = {}
        self._looks = Looks[Path]()
        self._older: dict[tuple[State, str], bool] = {}
        """(a file's state, an identity) -> whether the file begins with it."""

    def check(self) -> None:
        """Complain early about a path that names nothing, or nothing that can be read. An empty folder is fine: it may grow."""
        if self._path.is_dir():
            found, known = _in_folder(self._path)
            if found and not known:
                raise FormatUnknownError(str(min(found)), list(FORMATS))
            return
        if self._path.is_file():
            if self._path.suffix not in FORMATS:
                raise FormatUnknownError(str(self._path), list(FORMATS))
            return
        root, pattern = self._root()
        if pattern is None or not root.is_dir() or not self._root_and_files()[1]:
            raise SourceMissingError(str(self._path), _there(root))

    def parts(self) -> Sequence[Part]:
        root, files = self._root_and_files()
        first, now = self._looks.first, {path: state for path in files if (state := state_of(path))}
        self._seen = {path: seen for path, seen in self._seen.items() if path in now}
        resting = self._looks.resting(now)
        at_once(lambda path: self._look(path, root), [path for path in resting if not self._is_known(path, now[path])])
        looks = [(path, self._look(path, root)) for path in resting]
        return [seen.part for path, seen in looks if first or seen.state == now[path]]  # else it changed a moment ago

    def read(self, identity: str, rows: Sequence[int]) -> Any:
        """Raises PartChangedError where the file is no longer what was planned, IndexError for a row it never had."""
        root, _ = self._root()
        name = identity.rpartition("@")[0]
        path = root / name
        if not path.is_file():
            raise PartChangedError(str(path), identity, "")
        seen = self._look(path, root)
        if seen.part.identity != identity and not self._begins_with(path, seen, identity):
            raise PartChangedError(str(path), identity, seen.part.identity)
        rows_N = np.asarray(rows, dtype=np.int64)
        if len(rows_N) and not (rows_N.min() >= 0 and rows_N.max() < seen.part.rows):
            raise IndexError(f"{identity} has rows 0 to {seen.part.rows - 1}, asked for {rows_N.min()} to {rows_N.max()}")
        return seen.reader.take(rows_N, identity)

    def grown_from(self, identity: str) -> str | None:
        root, _ = self._root()
        path = root / identity.rpartition("@")[0]
        seen = self._seen.get(path)
        return seen.part.identity if seen and path.is_file() and self._begins_with(path, seen, identity) else None

    def _begins_with(self, path: Path, seen: _Seen, identity: str) -> bool:
        """Whether the file's first bytes are all of that older identity's, and whole rows."""
        key = seen.state, identity
        if key not in self._older:
            digest, _, size = identity.rpartition("@")[2].partition("-")
            whole = size.isdigit() and seen.reader.ends_row(int(size))
            self._older[key] = whole and _digest(path, int(size)) == digest
        return self._older[key]

    def _root(self) -> tuple[Path, str | None]:
        """The folder that names are relative to, and the pattern below it (None: all of the folder)."""
        if self._path.is_dir():
            return self._path, None
        parts = Path(self._section.path or "").parts  # the base may have brackets in its name
        magic = next((place for place, part in enumerate(parts) if glob.has_magic(part)), None)
        if self._path.is_file() or magic is None:
            return self._path.parent, glob.escape(self._path.name)
        return self._base.joinpath(*parts[:magic]), str(Path(*parts[magic:]))

    def _root_and_files(self) -> tuple[Path, list[Path]]:
        root, pattern = self._root()
        if pattern is None:
            _, known = _in_folder(root)
        else:
            names = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 - Path.glob has no root_dir and sees hidden files
            known = [root / name for name in names if (root / name).is_file()]
            for path in known:
                if path.suffix not in FORMATS:
                    raise FormatUnknownError(str(path), list(FORMATS))
        return root, sorted(known)

    def _is_known(self, path: Path, state: State) -> bool:
        return path in self._seen and self._seen[path].state == state

    def _look(self, path: Path, root: Path) -> _Seen:
        state = state_of(path)
        seen = self._seen.get(path)
        if seen is None or seen.state != state:
            if state is None:
                raise PartChangedError(str(path), path.name, "")
            name = path.relative_to(root).as_posix()
            reader = FORMATS[path.suffix](path, self._section)
            identity = f"{name}@{_digest(path, state[0])}-{state[0]}"
            part = Part(identity=identity, name=name, rows=reader.rows, held_bytes=reader.held_bytes)
            seen = _Seen(state=state, part=part, reader=reader)
            self._seen[path] = seen
        return seen


def _digest(path: Path, size: int) -> str:
    """128 bits of the hash of the file's first `size` bytes."""
    return digest_of(path, size).hex()[:32]


def _in_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Its files that are not hidden, and those of them that can be read."""
    found = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return found, [path for path in found if path.suffix in FORMATS]


def _there(folder: Path) -> list[str]:
    """Names in the nearest folder that exists."""
    while not folder.is_dir():
        folder = folder.parent
    return [f"{folder}/{entry.name}" for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
