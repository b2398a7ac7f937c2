"""A release as signed metadata describes it: path, digest, and what the release key says about it.

Security floor, hardware, memory, the shadow run's floor and deltas live in the target's `custom`, under the release key, so that
whoever only chooses (the orchestrator) cannot change them. A reader refuses values that do not fit; one that knows no deltas
fetches the whole bundle.
"""

import re
from dataclasses import dataclass
from typing import Any

from tuf.api.metadata import TargetFile

from pipeline.errors import ReleaseError
from pipeline.releases.bundle import MAX_BUNDLE_BYTES

CUSTOM_VERSION = 1
MAX_DELTAS = 32
DIGEST = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"releases/[a-z][a-z0-9_-]{0,40}-[0-9]{6,12}\.kdpb")
_RUNTIME = re.compile(r"(?:\d{1,6}(?:\.\d{1,6}){0,3})?")
_STUDENT = re.compile(r"[a-z][a-z0-9_-]{0,40}")


class TargetInvalidError(ReleaseError):
    """Signed metadata describes a release in a way this version does not understand."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(path, found, expected)
        self.path, self.found, self.expected = path, found, expected

    def __str__(self) -> str:
        return f"release {self.path}: found {self.found}; expected {self.expected}; sign the release again"


@dataclass(frozen=True, kw_only=True)
class DeltaFile:
    """A smaller file that makes this release's bundle of what a device has (`pipeline.releases.delta`)."""

    source: str
    """Digest of the bundle that the device must have; empty if it needs none."""
    digest: str
    """Hex SHA-256 of the delta."""
    length: int


@dataclass(frozen=True, kw_only=True)
class ReleaseTarget:
    """One signed release."""

    path: str
    digest: str
    """Hex SHA-256 of the bundle."""
    length: int
    student: str
    release: int
    generation: int
    """Turn of the loop that made it."""
    security_floor: int
    """Once a device ran this release, it never runs one of the same student with a number below."""
    hardware: tuple[str, ...] = ()
    """Hardware classes it may run on; empty is any."""
    memory_bytes: int = 0
    deltas: tuple[DeltaFile, ...] = ()
    """Only ever a shorter way to the same digest."""
    runtime: str = ""
    """Oldest onnxruntime that runs it; empty is any."""
    shadow_floor_percent: int = 0
    """Agreement with what a device runs, in its shadow run, below which the device refuses it; 0 is no floor."""

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path) or not DIGEST.fullmatch(self.digest) or not _STUDENT.fullmatch(self.student):
            found = f"path {self.path!r:.80}, digest {self.digest!r:.80}, student {self.student!r:.50}"
            raise TargetInvalidError(self.path, found, "releases/STUDENT-NUMBER.kdpb and a SHA-256")
        numbers: tuple[object, ...] = (self.length, self.release, self.generation, self.security_floor, self.memory_bytes)
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers) or not 0 < self.length <= MAX_BUNDLE_BYTES:
            raise TargetInvalidError(self.path, f"numbers {numbers!r:.120}", f"whole numbers from 0, length up to {MAX_BUNDLE_BYTES}")
        if not _RUNTIME.fullmatch(self.runtime):
            raise TargetInvalidError(self.path, f"runtime {self.runtime!r:.40}", "a version like 1.23, or nothing")
        floor: object = self.shadow_floor_percent
        if not isinstance(floor, int) or isinstance(floor, bool) or not 0 <= floor <= 100:
            raise TargetInvalidError(self.path, f"shadow floor {floor!r:.40}", "a percentage, 0 to 100")
        if self.security_floor > self.release:
            raise TargetInvalidError(self.path, f"security floor {self.security_floor}", f"at most its own number, {self.release}")
        if len(self.deltas) > MAX_DELTAS or not all(self._fits(delta) for delta in self.deltas):
            raise TargetInvalidError(self.path, f"deltas {self.deltas!r:.160}", f"at most {MAX_DELTAS}, each with digests and a length")

    def _fits(self, delta: DeltaFile) -> bool:
        texts: tuple[object, ...] = (delta.source, delta.digest)
        length: object = delta.length
        return (
            all(isinstance(text, str) for text in texts)
            and (delta.source == "" or DIGEST.fullmatch(delta.source) is not None)
            and DIGEST.fullmatch(delta.digest) is not None
            and isinstance(length, int)
            and not isinstance(length, bool)
            and 0 < length <= MAX_BUNDLE_BYTES
        )

    def to_tuf(self) -> TargetFile:
        custom: dict[str, Any] = {
            "version": CUSTOM_VERSION,
            "student": self.student,
            "release": self.release,
            "generation": self.generation,
            "security_floor": self.security_floor,
            "hardware": list(self.hardware),
            "memory_bytes": self.memory_bytes,
            "runtime": self.runtime,
        }
        if self.shadow_floor_percent:
            custom["shadow_floor_percent"] = self.shadow_floor_percent
        if self.deltas:
            custom["deltas"] = [{"from": delta.source, "sha256": delta.digest, "length": delta.length} for delta in self.deltas]
        return TargetFile(self.length, {"sha256": self.digest}, self.path, {"custom": custom})

    @classmethod
    def from_tuf(cls, target: TargetFile) -> "ReleaseTarget":
        """Raises TargetInvalidError."""
        custom: Any = target.custom
        if not isinstance(custom, dict) or custom.get("version") != CUSTOM_VERSION:
            raise TargetInvalidError(target.path, f"custom {custom!r:.80}", f"custom version {CUSTOM_VERSION}")
        try:
            hardware = custom["hardware"]
            if not isinstance(hardware, list) or not all(isinstance(name, str) for name in hardware):
                raise TargetInvalidError(target.path, f"hardware {hardware!r:.80}", "a list of names")
            return cls(
                path=target.path,
                digest=target.hashes["sha256"],
                length=target.length,
                student=custom["student"],
                release=custom["release"],
                generation=custom["generation"],
                security_floor=custom["security_floor"],
                hardware=tuple(hardware),
                memory_bytes=custom["memory_bytes"],
                deltas=tuple(
                    DeltaFile(source=delta["from"], digest=delta["sha256"], length=delta["length"]) for delta in custom.get("deltas", ())
                ),
                runtime=custom.get("runtime", ""),
                shadow_floor_percent=custom.get("shadow_floor_percent", 0),
            )
        except (KeyError, TypeError) as error:
            raise TargetInvalidError(target.path, f"{type(error).__name__} {error}", "every key of custom") from error


def target_path(student: str, release: int) -> str:
    """The TUF target path of a student's release."""
    return f"releases/{student}-{release:06d}.kdpb"
