"""A folder of images, one subfolder a class: `ham/1.png`, `spam/2.jpg`. The subfolder's name is the hard label.

Each image is a row of kind `floats`; `pixels` says how. One that does not decode, or is too large, is a bad row with the reason.

An image is known by its mark: a hash of its name below the folder and one of its bytes. So a copy, or another time of change, is the same
image, and a changed one is another. A part is a set of images that came together, at most `PART_IMAGES`, and its identity is their marks:
who has only the identity can read its rows, whatever came, changed or went since. They are in the order of the marks, which is no order
of classes. Which images came together only those know who planned them; they say it (`parts_beside`), and what is in no such part is
new. So an image that comes, changes or goes concerns its own row and no other. A row whose image changed or went is a bad row; only when
nothing of a part is left, the part is gone. Nothing here is written.
"""

import base64
import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import SourceSection
from pipeline.errors import ConfigError, UnknownKeyError
from pipeline.sources.looks import Looks, State, at_once, digest_of
from pipeline.sources.pixels import MAX_FILE_BYTES, Pixels
from pipeline.sources.rows import Record, from_values
from pipeline.sources.source import Part, PartChangedError, Source, SourceMissingError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
PART_IMAGES = 512
NAME_CHARS, MARK_CHARS = 8, 20
"""Of a mark in base64: 48 bits of the name's hash, then 72 bits of the content's."""
_IDENTITY = re.compile(rf"images@((?:[A-Za-z0-9_-]{{{MARK_CHARS}}})+)")


def open_images(section: SourceSection, base: Path) -> Source:
    """Images below the folder `section.path`. Raises SourceMissingError, ConfigError."""
    unknown = sorted(set(section.options) - {"size", "mode"})
    if unknown:
        raise UnknownKeyError("options of a source of images", unknown[0], ["mode", "size"])
    size, mode = section.options.get("size"), section.options.get("mode", "L")
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(edge, int) and 0 < edge <= 4096 for edge in size):
        raise ConfigError(
            "options.size of a source of images",
            f"found {size!r}",
            "[height, width] in pixels, at most 4096",
            "docs/sources.md describes it",
        )
    if mode not in ("L", "RGB"):
        raise ConfigError("options.mode of a source of images", f"found {mode!r}", '"L" or "RGB"', "docs/sources.md describes it")
    if section.kind != "floats":
        raise ConfigError("kind of a source of images", f"found {section.kind!r}", '"floats"', "docs/sources.md describes it")
    folder = base / (section.path or "")
    if not folder.is_dir():
        raise SourceMissingError(str(folder), [])
    return ImageSource(section, folder, Pixels(height=size[0], width=size[1], mode=mode))


class ImageSource:
    """A `Source` over one folder of class folders. Hashes an image once, and again whenever it looks different on disk."""

    def __init__(self, section: SourceSection, folder: Path, pixels: Pixels) -> None:
        # Rows are made here, with the columns that `rows` knows how to read.
        self._section = section.model_copy(update={"input": "input", "label": "label", "id": "image", "options": {}})
        self._folder, self._pixels = folder, pixels
        self._looks = Looks[str]()
        self._seen: dict[str, tuple[State, str]] = {}
        """Image -> how it looked when it was hashed, and its mark."""
        self._there: Mapping[str, State] = {}
        self._named: dict[str, list[str]] = {}
        """The name's half of a mark -> images of `_there`: nearly always one."""

    def parts(self) -> Sequence[Part]:
        return self.parts_beside(())

    def parts_beside(self, kept: Collection[str]) -> Sequence[Part]:
        """As `BatchSource.parts_beside`."""
        marks = self._look()
        parts, known = [], set[str]()
        for identity in kept:
            rows = _marks_in(identity)
            known.update(rows)
            if any(mark[:NAME_CHARS] in self._named for mark in rows):
                parts.append(self._part(identity, rows))
        new = sorted(marks.difference(known))
        for start in range(0, len(new), PART_IMAGES):
            rows = new[start : start + PART_IMAGES]
            parts.append(self._part(f"images@{''.join(rows)}", rows))
        return parts

    def read(self, identity: str, rows: Sequence[int]) -> Any:
        """Raises PartChangedError where no image of the part is there any more, IndexError for a row it never had."""
        marks = _marks_in(identity)
        if not all(0 <= row < len(marks) for row in rows):
            raise IndexError(f"{len(marks)} images have rows 0 to {len(marks) - 1}, asked for {min(rows)} to {max(rows)}")
        wanted = [marks[row] for row in rows]
        if any(mark[:NAME_CHARS] not in self._named for mark in wanted):
            self._list()
        if not any(mark[:NAME_CHARS] in self._named for mark in marks):
            raise PartChangedError(str(self._folder), f"{len(marks)} images", "")
        short = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        return from_values([self._record(mark) for mark in wanted], f"images@{short}", rows, self._section)

    def _part(self, identity: str, marks: Sequence[str]) -> Part:
        first = next(name for mark in marks for name in self._named.get(mark[:NAME_CHARS], ()))
        more = f" and {len(marks) - 1} more" if len(marks) > 1 else ""
        return Part(identity=identity, name=_printed(first) + more, rows=len(marks))

    def _look(self) -> set[str]:
        """Marks of the images that rest."""
        first = self._looks.first
        self._list()
        now = self._there
        self._seen = {name: seen for name, seen in self._seen.items() if name in now}
        resting = self._looks.resting(now)
        due = [name for name in resting if name not in self._seen or self._seen[name][0] != now[name]]
        self._seen.update((name, seen) for name, seen in zip(due, at_once(self._hashed, due), strict=True) if seen)
        looks = [self._seen[name] for name in resting if name in self._seen and (first or self._seen[name][0] == now[name])]
        return {mark for _, mark in looks}

    def _hashed(self, name: str) -> tuple[State, str] | None:
        """None where it went a moment ago."""
        path = self._folder / name
        try:
            state = _state(path.stat())
            return state, _name_mark(name) + _content_mark(digest_of(path, state[0]))
        except FileNotFoundError:
            return None

    def _list(self) -> None:
        there = dict(_images_below(self._folder))
        if there.keys() != self._there.keys():
            self._named = {}
            for name in sorted(there):
                self._named.setdefault(_name_mark(name), []).append(name)
        self._there = there

    def _record(self, mark: str) -> Record:
        changed = None
        for name in self._named.get(mark[:NAME_CHARS], ()):
            try:
                with (self._folder / name).open("rb") as file:
                    data = file.read(MAX_FILE_BYTES + 1)
            except FileNotFoundError:
                continue
            if len(data) <= MAX_FILE_BYTES and _content_mark(hashlib.sha256(data).digest()) != mark[NAME_CHARS:]:
                changed = name
                continue
            values_F = self._pixels.read(data)
            if isinstance(values_F, str):
                return f"{_printed(name)}: {values_F}"
            return {"image": f"{name}@{mark[NAME_CHARS:]}", "input": values_F.tolist(), "label": name.partition("/")[0]}
        return f"{_printed(changed)}: changed since it was planned" if changed else "an image that is gone since it was planned"


def _images_below(folder: Path) -> Iterator[tuple[str, State]]:
    """Names below the folder, and states. Nothing whose name, or whose folder's name, begins with a dot."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as classes:
        for below in classes:
            if below.is_dir() and not below.name.startswith("."):
                with contextlib.suppress(FileNotFoundError), os.scandir(below) as images:
                    for image in images:
                        if image.name.lower().endswith(ENDINGS) and not image.name.startswith(".") and image.is_file():
                            with contextlib.suppress(FileNotFoundError):
                                yield f"{below.name}/{image.name}", _state(image.stat())


def _state(status: os.stat_result) -> State:
    """By the time of the inode's last change, which no program sets: what is unpacked or copied with an older time shows."""
    return status.st_size, status.st_ctime_ns, status.st_ino


def _marks_in(identity: str) -> list[str]:
    """The marks of a part, row by row; none where it is no part of images."""
    found = _IDENTITY.fullmatch(identity)
    return [found[1][start : start + MARK_CHARS] for start in range(0, len(found[1]), MARK_CHARS)] if found else []


def _content_mark(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest[:9]).decode()


def _name_mark(name: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(os.fsencode(name)).digest()[:6]).decode()


def _printed(name: str) -> str:
    return os.fsencode(name).decode(errors="replace")
