"""A folder of images, one subfolder a class: `ham/1.png`, `spam/2.jpg`. The subfolder's name is the hard label.

Each image is a row of kind `floats`: resized to `options.size` (height, width), as `options.mode` "L" (grey) or "RGB", float32 from 0 to 1,
flattened in the order channel, row, column. An image that does not decode, or is larger than `MAX_PIXELS`, is a bad row with the reason.

All images are one part: rows in the order in which files were last changed, then by name, so that images that are added come behind
those that are there, and the part only grows. A file that was changed or removed makes it another part. Where the folder is sorted
by class, a unit is a stride through all of it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pipeline.config import SourceSection
from pipeline.errors import ConfigError, UnknownKeyError
from pipeline.sources.rows import Record, from_values
from pipeline.sources.source import Part, PartChangedError, Source, SourceMissingError

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
MAX_PIXELS = 64 * 2**20
MAX_FILE_BYTES = 64 * 2**20

_Entry = tuple[int, str, int]
"""Time of the last change in nanoseconds, name below the folder, size."""


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
    return ImageSource(section, folder, size=(size[0], size[1]), mode=mode)


class ImageSource:
    """A `Source` over one folder of class folders."""

    def __init__(self, section: SourceSection, folder: Path, *, size: tuple[int, int], mode: str) -> None:
        # Rows are made here, with the columns that `rows` knows how to read.
        self._section = section.model_copy(update={"input": "input", "label": "label", "id": None, "options": {}})
        self._folder, self._size, self._mode = folder, size, mode
        self._entries: list[_Entry] = []

    def parts(self) -> Sequence[Part]:
        self._entries = self._look()
        name = self._folder.name
        return [Part(identity=f"{name}@{_digest(self._entries)}-{len(self._entries)}", name=name, rows=len(self._entries))]

    def grown_from(self, identity: str) -> str | None:
        return self.parts()[0].identity if self._begins_with(identity) else None

    def read(self, identity: str, rows: Sequence[int]) -> Any:
        """Raises PartChangedError where the images are no longer those that were planned."""
        if not self._begins_with(identity):
            self._entries = self._look()
            if not self._begins_with(identity):
                raise PartChangedError(str(self._folder), identity, self.parts()[0].identity)
        return from_values([self._record(self._entries[row]) for row in rows], [f"{identity}:{row}" for row in rows], self._section)

    def _look(self) -> list[_Entry]:
        found = [path for path in self._folder.glob("*/*") if path.suffix.lower() in ENDINGS and not path.name.startswith(".")]
        states = [(path, path.stat()) for path in found]
        return sorted((state.st_mtime_ns, path.relative_to(self._folder).as_posix(), state.st_size) for path, state in states)

    def _begins_with(self, identity: str) -> bool:
        digest, _, count = identity.rpartition("@")[2].partition("-")
        return count.isdigit() and int(count) <= len(self._entries) and _digest(self._entries[: int(count)]) == digest

    def _record(self, entry: _Entry) -> Record:
        path = self._folder / entry[1]
        if entry[2] > MAX_FILE_BYTES:
            return f"{entry[2]} bytes; expected an image of at most {MAX_FILE_BYTES}"
        try:
            with PIL.Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    return f"{image.width} x {image.height} pixels; expected at most {MAX_PIXELS}"
                values_F = self._floats(image)
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            return f"not an image ({str(error)[:120]})"
        return {"input": values_F.tolist(), "label": path.parent.name}

    def _floats(self, image: Any) -> NDArray[np.float32]:
        height, width = self._size
        small = image.convert(self._mode).resize((width, height), PIL.Image.Resampling.BILINEAR)
        pixels = np.asarray(small, dtype=np.float32) / np.float32(255)
        return pixels.reshape(-1) if pixels.ndim == 2 else pixels.transpose(2, 0, 1).reshape(-1)


def _digest(entries: Sequence[_Entry]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for changed_ns, name, size in entries:
        digest.update(f"{changed_ns}:{size}:{name}\n".encode())
    return digest.hexdigest()
