"""Slots: the places on a device that hold a release, by digest.

A slot is a folder of the bundle's members and `slot.json` with their SHA-256. It is made under a temporary name and renamed, so a slot
that has its name is whole; it is verified again each time it is opened, so that rot on the flash is found before it answers.
Which slots to keep is `device.DeviceRecord.digests`.
"""

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DeviceError, ReleaseError
from pipeline.files import make_private_folder, read_bounded, sync_folder, write_atomic
from pipeline.releases.bundle import MAX_JSON_BYTES, MEMBERS, digest_file, open_bundle
from pipeline.releases.manifest import BundleManifest, Golden, parse_golden, parse_manifest
from pipeline.releases.target import DIGEST

SLOT_VERSION = 1
_SEAL = "slot.json"
_TEMPORARY = ".tmp-"


class SlotMissingError(DeviceError):
    """No slot holds this release."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest

    def __str__(self) -> str:
        return f"slot {self.digest[:12]!r}: none on this device; expected an installed release; it is installed at the next sync"


class SlotCorruptError(DeviceError):
    """A slot's files are not what was verified when it was made."""

    def __init__(self, digest: str, found: str) -> None:
        super().__init__(digest, found)
        self.digest, self.found = digest, found

    def __str__(self) -> str:
        return f"slot {self.digest[:12]}: {self.found}; expected the files as verified; the device goes back or installs it again"


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A verified release on disk."""

    digest: str
    folder: Path
    manifest: BundleManifest
    golden: tuple[Golden, ...]

    @property
    def graph(self) -> Path:
        return self.folder / "graph.onnx"

    @property
    def size_bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in MEMBERS)


class Slots:
    """All slots of a device, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def stage(self, bundle: Path, digest: str) -> Slot:
        """Make the slot of a bundle whose digest the caller has verified. A crash leaves no slot, or the whole one."""
        make_private_folder(self._folder)
        slot = self._folder / _name(digest)
        temporary = self._folder / f"{_TEMPORARY}{digest}"
        _remove(temporary)
        _remove(slot)
        temporary.mkdir(mode=0o700)
        digests = open_bundle(bundle).extract(temporary)
        write_atomic(temporary / _SEAL, json.dumps({"version": SLOT_VERSION, "sha256": digests}).encode())
        temporary.rename(slot)
        sync_folder(self._folder)
        return self.open(digest)

    def open(self, digest: str) -> Slot:
        """The slot, every byte verified. Raises SlotMissingError, SlotCorruptError."""
        folder = self._folder / _name(digest)
        if not folder.is_dir():
            raise SlotMissingError(digest)
        try:
            seal: dict[str, Any] = json.loads(read_bounded(folder / _SEAL, MAX_JSON_BYTES))
            if seal["version"] != SLOT_VERSION or set(seal["sha256"]) != set(MEMBERS):
                raise SlotCorruptError(digest, f"a seal of version {seal['version']!r:.20}")
            for name in MEMBERS:
                found, _ = digest_file(folder / name)
                if found != seal["sha256"][name]:
                    raise SlotCorruptError(digest, f"{name} changed")
            manifest = parse_manifest(read_bounded(folder / "manifest.json", MAX_JSON_BYTES))
            golden = parse_golden(read_bounded(folder / "golden.json", MAX_JSON_BYTES), manifest)
        except (OSError, ValueError, KeyError, TypeError, ReleaseError) as error:
            raise SlotCorruptError(digest, f"{type(error).__name__} {error}"[:120]) from error
        return Slot(digest=digest, folder=folder, manifest=manifest, golden=golden)

    def whole(self) -> list[Slot]:
        """Every slot that verifies, the newest release first."""
        slots: list[Slot] = []
        with contextlib.suppress(OSError):
            for entry in sorted(self._folder.iterdir()):
                with contextlib.suppress(SlotMissingError, SlotCorruptError):
                    slots.append(self.open(entry.name))
        return sorted(slots, key=lambda slot: slot.manifest.release, reverse=True)

    def keep(self, digests: frozenset[str]) -> None:
        """Delete every other slot and what crashes left. A crash in between leaves some for the next time."""
        if not self._folder.is_dir():
            return
        for entry in sorted(self._folder.iterdir()):
            if entry.name not in digests:
                _remove(entry)


def _name(digest: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise SlotMissingError(digest)
    return digest


def _remove(path: Path) -> None:
    """Delete a folder so that no half of it keeps the name of a slot."""
    if not path.exists():
        return
    if not path.name.startswith(_TEMPORARY):
        doomed = path.with_name(f"{_TEMPORARY}gone-{path.name}")
        if doomed.exists():
            shutil.rmtree(doomed)
        path = path.rename(doomed)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
