"""A device's record as the bytes of its state file. Fields that came later have defaults, so a record of an older kdpipe reads.

What must outlive the state file (which releases are installed, below which none may run) has a second, small file of a version of its
own: it is read where the state file rotted, or was written by a newer kdpipe.
"""

import json
from dataclasses import asdict, fields
from typing import Any

from pipeline.errors import DeviceError
from pipeline.releases.target import DeltaFile, ReleaseTarget
from pipeline.rollout.device import Arrival, DeviceRecord, Installed, QueuedReport, Shadow, State, Wanted

RECORD_VERSION = 1
HELD_VERSION = 1


class RecordInvalidError(DeviceError):
    """The device's state file is of an unknown version or does not read."""

    def __init__(self, found: str, other_version: bool = False) -> None:
        super().__init__(found, other_version)
        self.found, self.other_version = found, other_version

    def __str__(self) -> str:
        if not self.other_version:
            return f"device state: {self.found}; expected a record; it is set aside, and the device goes on with the release that it had"
        return (
            f"device state: {self.found}; expected version {RECORD_VERSION}; update kdpipe: until then the device answers with the "
            "release that it had, and installs nothing"
        )


def to_json(record: DeviceRecord) -> bytes:
    return json.dumps({"version": RECORD_VERSION, **asdict(record)}, separators=(",", ":")).encode()


def from_json(data: bytes) -> DeviceRecord:
    """Raises RecordInvalidError."""
    try:
        tree: dict[str, Any] = json.loads(data)
        version = tree.pop("version")
        if version != RECORD_VERSION:
            raise RecordInvalidError(f"version {version!r:.40}", other_version=True)
        release = tree["release"]
        return DeviceRecord(
            **{
                **tree,
                "state": State(tree["state"]),
                "wanted": _read(Wanted, tree["wanted"]),
                "release": _read_release(release) if release is not None else None,
                "incumbent": _read(Installed, tree["incumbent"]),
                "previous": _read(Installed, tree["previous"]),
                "arrival": _read(Arrival, tree.get("arrival")),
                "reports": tuple(_read_report(report) for report in tree["reports"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordInvalidError(f"{type(error).__name__} {error}"[:120]) from error


def held_to_json(record: DeviceRecord) -> bytes:
    """What a record begun anew still must know."""
    incumbent, previous = (asdict(held) if held is not None else None for held in (record.incumbent, record.previous))
    tree = {"version": HELD_VERSION, "incumbent": incumbent, "previous": previous, "floors": dict(record.floors)}
    return json.dumps(tree, separators=(",", ":")).encode()


def begin_anew(held: bytes, *, incarnation: int) -> DeviceRecord:
    """A first record, with what was held before it. Raises RecordInvalidError."""
    try:
        tree: dict[str, Any] = json.loads(held)
        if tree["version"] != HELD_VERSION:
            raise RecordInvalidError(f"version {tree['version']!r:.40} of what is installed", other_version=True)
        return DeviceRecord(
            incarnation=incarnation,
            incumbent=_read(Installed, tree["incumbent"]),
            previous=_read(Installed, tree["previous"]),
            floors=dict(tree["floors"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordInvalidError(f"{type(error).__name__} {error}"[:120]) from error


def _read(kind: Any, tree: dict[str, Any] | None) -> Any:
    return None if tree is None else kind(**{f.name: tree[f.name] for f in fields(kind)})


def _read_release(tree: dict[str, Any]) -> ReleaseTarget:
    deltas = tuple(_read(DeltaFile, delta) for delta in tree.get("deltas", ()))
    return ReleaseTarget(**{**tree, "hardware": tuple(tree["hardware"]), "deltas": deltas})


def _read_report(tree: dict[str, Any]) -> QueuedReport:
    return QueuedReport(**{**tree, "state": State(tree["state"]), "shadow": _read(Shadow, tree["shadow"])})
