"""Files on S3, Google Cloud Storage or Azure as a source: `s3://BUCKET/PREFIX`, an object, or a glob below one.

Objects are mirrored into a private folder of this machine, whole, when they are first needed and again when their ETag or size changes.
What is there is then a source of files like any other, with the same identities, by content. So a machine needs disk for what it reads;
`options.mirror` says where, if not below the system's folder for temporary files. Half a download has a name that begins with a dot.
"""

import fnmatch
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import obstore

from pipeline.config import SourceSection
from pipeline.files import make_private_folder, write_atomic
from pipeline.object_service import open_service, translated
from pipeline.sources.files import FileSource, check_options
from pipeline.sources.formats import FORMATS
from pipeline.sources.source import Part, PartChangedError, Source, SourceMissingError

MAX_OBJECT_BYTES = 64 * 2**30
STATE_FILE = ".mirror.json"


def open_remote(section: SourceSection) -> Source:
    """The objects that `section.path` names. Raises SourceMissingError, FormatUnknownError, ConfigError, ServiceDeniedError."""
    check_options(section, ("carry", "mirror"))
    source = RemoteFiles(section)
    source.check()
    return source


class RemoteFiles:
    """A `Source` over objects, by a mirror of them."""

    def __init__(self, section: SourceSection) -> None:
        self._url = section.path or ""
        bucket, _, path = self._url.partition("://")[2].partition("/")  # in a glob, `?` begins no query
        fixed, pattern = _split(path.strip("/"))
        self._pattern = PurePosixPath(pattern or "*").parts
        self._prefix = f"{self._url.partition(':')[0]}://{bucket}/{fixed}"
        self._store = open_service(self._prefix)
        below = section.options.get("mirror") or f"{tempfile.gettempdir()}/kdpipe-mirror-{os.getuid()}"
        self._folder = Path(below) / hashlib.blake2b(self._prefix.encode(), digest_size=8).hexdigest()
        options = {name: value for name, value in section.options.items() if name != "mirror"}
        local = section.model_copy(update={"path": pattern or ".", "options": options})
        self._files = FileSource(local, self._folder)
        self._synced = False

    def check(self) -> None:
        """Raises SourceMissingError where nothing is there."""
        self._sync()
        if not any(self._folder.rglob("[!.]*")):
            raise SourceMissingError(self._url, [])
        self._files.check()

    def parts(self) -> Sequence[Part]:
        self._sync()
        return self._files.parts()

    def read(self, identity: str, rows: Sequence[int]) -> Any:
        """Raises PartChangedError."""
        if not self._synced:
            self._sync()
        try:
            return self._files.read(identity, rows)
        except PartChangedError:
            self._sync()  # another machine's look may be newer than this mirror
        return self._files.read(identity, rows)

    def grown_from(self, identity: str) -> str | None:
        return self._files.grown_from(identity)

    def _sync(self) -> None:
        """Bring the mirror to what is there now."""
        make_private_folder(self._folder)
        known, now = self._known(), self._listed()
        for name, state in now.items():
            if known.get(name) != state or not (self._folder / name).is_file():
                self._download(name)
        for name in set(known) - set(now):
            (self._folder / name).unlink(missing_ok=True)
        if known != now:
            write_atomic(self._folder / STATE_FILE, json.dumps(now).encode())
        self._synced = True

    def _listed(self) -> dict[str, list[Any]]:
        """Name below the prefix -> ETag and size, of what a reader knows."""
        with translated(self._url):
            found = [meta for page in obstore.list(self._store, chunk_size=1000) for meta in page]
        wanted = [meta for meta in found if self._wanted(meta["path"], meta["size"])]
        return {meta["path"]: [meta["e_tag"], meta["size"]] for meta in wanted}

    def _wanted(self, name: str, size: int) -> bool:
        path = PurePosixPath(name)
        hidden = any(part.startswith(".") or part == ".." for part in path.parts)
        return not hidden and _matches(path.parts, self._pattern) and path.suffix in FORMATS and size <= MAX_OBJECT_BYTES

    def _known(self) -> Mapping[str, list[Any]]:
        try:
            known: Mapping[str, list[Any]] = json.loads((self._folder / STATE_FILE).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return known

    def _download(self, name: str) -> None:
        path = self._folder / name
        make_private_folder(path.parent)
        partial = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            with translated(self._url), partial.open("wb") as file:
                for chunk in obstore.get(self._store, name).stream(min_chunk_size=2**20):
                    file.write(chunk)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _split(path: str) -> tuple[str, str | None]:
    """(prefix, pattern below it): an object is the pattern of its own name."""
    parts = PurePosixPath(path).parts
    magic = next((place for place, part in enumerate(parts) if set(part) & set("*?[")), None)
    if magic is None:
        return (path, None) if PurePosixPath(path).suffix not in FORMATS else ("/".join(parts[:-1]), parts[-1])
    return "/".join(parts[:magic]), "/".join(parts[magic:])


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """What `glob.glob(pattern, recursive=True)` finds: `*` stays within a folder, `**` is any number of them."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(name[skipped:], pattern[1:]) for skipped in range(len(name) + 1))
    return bool(name) and fnmatch.fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])
