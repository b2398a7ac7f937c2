"""The bundle: the one file (`.kdpb`) a device downloads.

A stored (uncompressed) zip of exactly manifest.json, golden.json, graph.onnx and weights.bin, in this order, with fixed
dates, so that the same parts always give the same bytes and a delta can touch the weights alone. The file is trusted only
after its digest matched signed metadata; it is still read as if hostile: exact names, no compression, no size that the file
itself does not have. Whether a bundle may run on a device is decided elsewhere.
"""

import hashlib
import io
import json
import os
import secrets
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.files import read_bounded, sync_folder
from pipeline.releases.manifest import BundleInvalidError, BundleManifest, Golden, golden_to_json, parse_golden, parse_manifest

MEMBERS = ("manifest.json", "golden.json", "graph.onnx", "weights.bin")
MAX_BUNDLE_BYTES = 1 << 30
MAX_JSON_BYTES = 8 << 20
CHUNK_BYTES = 1 << 20
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """A bundle on disk: what the release key signs."""

    path: Path
    sha256: str
    length: int


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle: small parts in memory, large parts still in the file."""

    path: Path
    manifest: BundleManifest
    golden: tuple[Golden, ...]
    sizes_bytes: dict[str, int]

    def extract(self, folder: Path) -> dict[str, str]:
        """Write the members into the existing `folder`, each fsynced. Returns SHA-256 by name.

        A crash leaves a part of the members: extract into a fresh folder and rename that.
        """
        digests = {}
        with zipfile.ZipFile(self.path) as archive:
            for name in MEMBERS:
                with archive.open(name) as source, (folder / name).open("xb") as out:
                    digests[name] = _copy(source, out, self.sizes_bytes[name])
                    out.flush()
                    os.fsync(out.fileno())
        sync_folder(folder)
        return digests


def build_bundle(out: Path, *, manifest: BundleManifest, graph: Path, weights: Path, golden: Sequence[Golden]) -> BundleFile:
    """Write a bundle at `out`, replacing what is there. The same parts give the same bytes.

    A crash leaves the old file or none. Raises BundleInvalidError if the parts do not fit together.
    """
    manifest_json = _dump(manifest.to_json())
    golden_json = _dump(golden_to_json(golden))
    parse_golden(golden_json, manifest)
    temporary = out.with_name(f".tmp-{out.name[:64]}-{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            _write(file, manifest_json, golden_json, graph, weights)
            file.flush()
            os.fsync(file.fileno())
        open_bundle(temporary)
        digest, length = digest_file(temporary)
        temporary.replace(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(out.parent)
    return BundleFile(path=out, sha256=digest, length=length)


def rebuild_bundle(folder: Path) -> bytes:
    """The bundle whose members were extracted into `folder`: the bytes that were signed, if nothing changed since. Raises OSError."""
    file = io.BytesIO()
    manifest_json, golden_json = (read_bounded(folder / name, MAX_JSON_BYTES) for name in MEMBERS[:2])
    _write(file, manifest_json, golden_json, folder / MEMBERS[2], folder / MEMBERS[3])
    return file.getvalue()


def open_bundle(path: Path) -> Bundle:
    """Read a bundle's small parts and check its shape.

    Raises BundleVersionError for a newer version, BundleInvalidError for anything that is not exactly a bundle.
    """
    length = path.stat().st_size
    if length > MAX_BUNDLE_BYTES:
        raise BundleInvalidError(str(path), f"{length} bytes", f"at most {MAX_BUNDLE_BYTES}")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = _check_members(archive, length)
            manifest = parse_manifest(_read_member(archive, "manifest.json", sizes))
            golden = parse_golden(_read_member(archive, "golden.json", sizes), manifest)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError, RuntimeError) as error:
        raise BundleInvalidError(str(path), f"{error}"[:120], "a stored zip of " + ", ".join(MEMBERS)) from error
    return Bundle(path=path, manifest=manifest, golden=golden, sizes_bytes=sizes)


def digest_file(path: Path) -> tuple[str, int]:
    """SHA-256 in hex, and length in bytes."""
    digest, length = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            length += len(chunk)
    return digest.hexdigest(), length


def _write(file: IO[bytes], manifest_json: bytes, golden_json: bytes, graph: Path, weights: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry("manifest.json"), manifest_json)
        archive.writestr(_entry("golden.json"), golden_json)
        for name, part in (("graph.onnx", graph), ("weights.bin", weights)):
            entry = _entry(name)
            entry.file_size = part.stat().st_size
            with part.open("rb") as source, archive.open(entry, "w") as member:
                _copy(source, member, entry.file_size)


def _check_members(archive: zipfile.ZipFile, length: int) -> dict[str, int]:
    entries = archive.infolist()
    names = tuple(entry.filename for entry in entries)
    if names != MEMBERS:
        raise BundleInvalidError("members", f"{names!r:.200}", ", ".join(MEMBERS))
    end = 0
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size and not entry.flag_bits & 0x1
        if not stored:
            raise BundleInvalidError(entry.filename, "a compressed or encrypted member", "a stored member")
        if entry.header_offset < end or entry.header_offset + entry.file_size > length:
            raise BundleInvalidError(entry.filename, "a member that overlaps another or leaves the file", "members one after the other")
        end = entry.header_offset + entry.file_size
    return {entry.filename: entry.file_size for entry in entries}


def _read_member(archive: zipfile.ZipFile, name: str, sizes: dict[str, int]) -> bytes:
    if sizes[name] > MAX_JSON_BYTES:
        raise BundleInvalidError(name, f"{sizes[name]} bytes", f"at most {MAX_JSON_BYTES}")
    with archive.open(name) as member:
        return member.read(MAX_JSON_BYTES)


def _copy(source: IO[bytes], out: IO[bytes], length: int) -> str:
    digest, left = hashlib.sha256(), length
    while left > 0:
        chunk = source.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise BundleInvalidError("member", f"{length - left} bytes", f"{length} bytes")
        out.write(chunk)
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=_FIXED_DATE)
    entry.create_system = 3
    entry.external_attr = 0o600 << 16
    return entry


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
