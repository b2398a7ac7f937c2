"""Making a recipe's files once: a marker, written last, says from which inputs they were made.

A crash before the marker leaves files that the next try writes again, byte for byte the same. After it, other inputs are
refused: labels that are already paid for speak of these files.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import ConfigError
from pipeline.files import read_bounded, write_atomic

MARKER = "data/prepared.json"
VERSION = 1
MAX_MARKER_BYTES = 2**20


class Fetch(Protocol):
    """Gets a package's archive, checked, from a cache or the registry. Workers implement it."""

    def __call__(self, package: str, version: str, sha256: str) -> Path: ...


class PreparedOtherwiseError(ConfigError):
    """The folder holds the files of another seed, other options or another version of the recipe."""


def prepare_once(folder: Path, *, inputs: Mapping[str, Any], make: Callable[[], None], say: Callable[[str], None]) -> bool:
    """Call `make` unless the marker says that it was done with these inputs. True where something was made.

    Raises PreparedOtherwiseError where it was done with others.
    """
    wanted = {"version": VERSION, "inputs": json.loads(json.dumps(inputs))}
    marker = folder / MARKER
    if marker.is_file():
        found = _read_marker(marker)
        if found == wanted:
            say(f"{folder} is prepared")
            return False
        before, now = _difference(found, wanted)
        raise PreparedOtherwiseError(
            str(folder), f"prepared with {before}, the run file now says {now}", "the same", "use another --dir, or `kdpipe clean` this one"
        )
    for name in ("data", "feeds", "inbox"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for stale in (folder / "inbox").glob("feed-*.parquet"):
        stale.unlink()  # of a try that did not end: no run has read it, because none starts before the marker
    make()
    write_atomic(marker, json.dumps(wanted, indent=1, sort_keys=True).encode(), mode=0o644)
    return True


def _read_marker(marker: Path) -> Any:
    try:
        return json.loads(read_bounded(marker, MAX_MARKER_BYTES))
    except ValueError:
        return {}


def _difference(found: Any, wanted: Mapping[str, Any]) -> tuple[str, str]:
    before = found.get("inputs", {}) if isinstance(found, dict) else {}
    now = wanted["inputs"]
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    described = [", ".join(f"{name} {side.get(name)!r}" for name in names) or "another version" for side in (before, now)]
    return described[0], described[1]
