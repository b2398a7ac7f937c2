"""Releases that were taken back: a list beside the targets, under the same signature by the release key.

A yanked release is no target any more, so no device installs it and no rollout to it begins; those that run it go on. The
list keeps its number from being given to other bytes.
"""

from dataclasses import asdict, dataclass
from typing import Any

from tuf.api.metadata import Targets

from pipeline.errors import ReleaseError

FIELD = "x-kdpipe-yanked"


class YankInvalidError(ReleaseError):
    """The list of yanked releases does not read."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"yanked releases: {self.found}; expected digest, reason and time of each; update kdpipe, or sign the releases again"


@dataclass(frozen=True, kw_only=True)
class Yank:
    """Why one release is gone."""

    digest: str
    reason: str
    at_unix_s: int


def yanks_of(releases: Targets) -> dict[str, Yank]:
    """By path. Raises YankInvalidError."""
    tree: Any = releases.unrecognized_fields.get(FIELD, {})
    if not isinstance(tree, dict):
        raise YankInvalidError(type(tree).__name__)
    return {path: _yank(path, entry) for path, entry in tree.items()}


def _yank(path: str, entry: Any) -> Yank:
    try:
        digest, reason, at_unix_s = entry["digest"], entry["reason"], entry["at_unix_s"]
    except (KeyError, TypeError) as error:
        raise YankInvalidError(f"{path!r:.80}, {type(error).__name__} {error}"[:120]) from error
    if not (isinstance(digest, str) and isinstance(reason, str) and type(at_unix_s) is int):
        raise YankInvalidError(f"{path!r:.80} with values of wrong types")
    return Yank(digest=digest, reason=reason, at_unix_s=at_unix_s)


def write_yank(releases: Targets, path: str, yank: Yank) -> None:
    """Take a target out of the role and put it on the list."""
    releases.targets.pop(path, None)
    releases.unrecognized_fields[FIELD] = {**releases.unrecognized_fields.get(FIELD, {}), path: asdict(yank)}
