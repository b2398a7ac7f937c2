"""A delta: what a device that holds one release's bundle must fetch to have the next one's.

    header | which bytes of the weights differ, a bit each, zstd | by how much, zstd | the rest, zstd with the old bundle as dictionary

Int8 codes of a warm-started student differ from its incumbent's by little or nothing, and only arithmetic differences show that to a
compressor. A byte that stays is worth less than a bit, and zstd's codes are whole bits: so it gets eight of them in a byte. Graph,
manifest and golden samples are mostly repeated, and the dictionary shows that. From nothing (an empty `old`) it is the bundle,
compressed. Bytes in, bytes out: which bundles have a delta, and who fetches it, is decided elsewhere.

Version 1 has the differences of the weights in one part. It is made where that is no longer: older devices read it, and refuse version 2.
A delta is not trusted: sizes are checked before anything is decompressed, and what it makes must have the length and SHA-256 that were
signed for the new bundle, or it is a DeltaInvalidError. The same two bundles and zstandard give the same bytes.
"""

import hashlib
import io
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from numpy.typing import NDArray

from pipeline.errors import ReleaseError

DELTA_VERSION = 2
READABLE = frozenset({1, DELTA_VERSION})
MAX_DELTA_BUNDLE_BYTES = 16 << 20
"""Old and new are in memory at once: a larger bundle has no deltas."""
MAX_SPANS = 64
LEVEL = 22
_MAGIC = b"KDPD"
_HEADER = struct.Struct("<4sBB2xIIII")
"""Magic, version, number of spans; lengths of the old bundle, the new one, the packed differences, the packed rest."""
_SPAN = struct.Struct("<III")
_PARTS = struct.Struct("<II")
"""Of the differences in version 2: length of the packed bits, and how many bytes differ."""
_WEIGHTS = "weights.bin"
_LOCAL_HEADER = struct.Struct("<26xHH")


class DeltaInvalidError(ReleaseError):
    """A delta is malformed, of another version, or does not make the bundle that was signed."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return f"delta: found {self.found}; expected {self.expected}; the device fetches the whole bundle instead"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Bytes of the new bundle that are told as differences from as many bytes of the old one."""

    old: int
    new: int
    length: int


def make_delta(old: bytes, new: bytes, spans: Sequence[Span] | None = None) -> bytes:
    """The delta from `old` to `new`. `spans`, in order of `new` and apart there, are the weights of two bundles unless given."""
    spans = weights_spans(old, new) if spans is None else spans
    differences = b"".join(
        (_array(new[span.new : span.new + span.length]) - _array(old[span.old : span.old + span.length])).tobytes() for span in spans
    )
    rest = _compress(_outside(new, spans), dictionary=old)
    version, parts = min(((1, _compress(differences)), (DELTA_VERSION, _in_two(differences))), key=lambda made: len(made[1]))
    header = _HEADER.pack(_MAGIC, version, len(spans), len(old), len(new), len(parts), len(rest))
    return header + b"".join(_SPAN.pack(span.old, span.new, span.length) for span in spans) + parts + rest


def apply_delta(delta: bytes, old: bytes, *, sha256: str, length: int) -> bytes:
    """The new bundle, exactly as signed. Raises DeltaInvalidError. Memory: the two bundles, and three times `length`."""
    version, spans, packed, rest = _parse(delta, old, length)
    inside = sum(span.length for span in spans)
    differences = _array(_decompress(packed, inside, dictionary=b"")) if version == 1 else _from_two(packed, inside)
    literal = _decompress(rest, length - inside, dictionary=old)
    new, taken, literal_taken, at = bytearray(length), 0, 0, 0
    for span in spans:
        new[at : span.new] = literal[literal_taken : literal_taken + span.new - at]
        literal_taken += span.new - at
        at = span.new + span.length
        new[span.new : at] = (differences[taken : taken + span.length] + _array(old[span.old : span.old + span.length])).tobytes()
        taken += span.length
    new[at:] = literal[literal_taken:]
    found = hashlib.sha256(new).hexdigest()
    if found != sha256:
        raise DeltaInvalidError(f"a bundle with digest {found[:12]}", f"{sha256[:12]}, as signed")
    return bytes(new)


def weights_spans(old: bytes, new: bytes) -> tuple[Span, ...]:
    """Where the weights of two bundles lie; none where one has no weights or they are not of one size."""
    before, after = _weights_of(old), _weights_of(new)
    if before is None or after is None or before[1] != after[1] or after[1] == 0:
        return ()
    return (Span(old=before[0], new=after[0], length=after[1]),)


def _weights_of(bundle: bytes) -> tuple[int, int] | None:
    """Offset and length of the stored member."""
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entry = archive.getinfo(_WEIGHTS)
    except (zipfile.BadZipFile, KeyError):
        return None
    name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(bundle, entry.header_offset)
    return entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes, entry.file_size


def _in_two(differences: bytes) -> bytes:
    """Where there is a difference, and the differences there."""
    moved = _array(differences) != 0
    packed = _compress(np.packbits(moved).tobytes())
    return _PARTS.pack(len(packed), int(moved.sum())) + packed + _compress(_array(differences)[moved].tobytes())


def _from_two(packed: bytes, length: int) -> NDArray[np.uint8]:
    """The differences again. Raises DeltaInvalidError."""
    if len(packed) < _PARTS.size:
        raise DeltaInvalidError(f"differences in {len(packed)} bytes", f"at least {_PARTS.size}")
    bits_bytes, count = _PARTS.unpack_from(packed)
    begin = _PARTS.size + bits_bytes
    bits = _array(_decompress(packed[_PARTS.size : begin], -(-length // 8), dictionary=b""))
    moved = np.unpackbits(bits, count=length).astype(bool)
    if int(moved.sum()) != count:
        raise DeltaInvalidError(f"{int(moved.sum())} bytes that differ", f"{count}")
    differences = np.zeros(length, dtype=np.uint8)
    differences[moved] = _array(_decompress(packed[begin:], count, dictionary=b""))
    return differences


def _parse(delta: bytes, old: bytes, length: int) -> tuple[int, list[Span], bytes, bytes]:
    if len(delta) < _HEADER.size:
        raise DeltaInvalidError(f"{len(delta)} bytes", f"at least {_HEADER.size}")
    magic, version, count, old_bytes, new_bytes, packed_bytes, rest_bytes = _HEADER.unpack_from(delta)
    if magic != _MAGIC or version not in READABLE:
        raise DeltaInvalidError(f"{magic!r} version {version}", f"{_MAGIC!r} version {DELTA_VERSION}")
    if (old_bytes, new_bytes) != (len(old), length) or length > MAX_DELTA_BUNDLE_BYTES:
        raise DeltaInvalidError(f"one from {old_bytes} to {new_bytes} bytes", f"{len(old)} to {length}, at most {MAX_DELTA_BUNDLE_BYTES}")
    begin = _HEADER.size + count * _SPAN.size
    if count > MAX_SPANS or begin + packed_bytes + rest_bytes != len(delta):
        raise DeltaInvalidError(f"{len(delta)} bytes with {count} spans", f"{begin + packed_bytes + rest_bytes}, at most {MAX_SPANS} spans")
    spans = [Span(old=o, new=n, length=size) for o, n, size in _SPAN.iter_unpack(delta[_HEADER.size : begin])]
    at = 0
    for span in spans:
        if span.new < at or span.new + span.length > length or span.old + span.length > len(old):
            raise DeltaInvalidError(f"{span}", "spans in order, inside both bundles")
        at = span.new + span.length
    return version, spans, delta[begin : begin + packed_bytes], delta[begin + packed_bytes :]


def _outside(new: bytes, spans: Sequence[Span]) -> bytes:
    parts, at = [], 0
    for span in spans:
        parts.append(new[at : span.new])
        at = span.new + span.length
    return b"".join([*parts, new[at:]])


def _compress(data: bytes, *, dictionary: bytes = b"") -> bytes:
    """One frame without checksum, sizes and magic: the digest and the header know better."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        source_size=len(dictionary) + len(data),
        window_log=_window_log(len(dictionary) + len(data)),
        write_checksum=False,
        write_content_size=False,
        write_dict_id=False,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
    )
    return zstandard.ZstdCompressor(dict_data=_raw(dictionary), compression_params=parameters).compress(data) if data else b""


def _decompress(packed: bytes, length: int, *, dictionary: bytes) -> bytes:
    """Exactly `length` bytes, never holding more."""
    if not packed:
        if length:
            raise DeltaInvalidError("nothing", f"{length} bytes")
        return b""
    window_bytes = 1 << _window_log(len(dictionary) + length)
    decompressor = zstandard.ZstdDecompressor(
        dict_data=_raw(dictionary), max_window_size=window_bytes, format=zstandard.FORMAT_ZSTD1_MAGICLESS
    )
    try:
        with decompressor.stream_reader(packed, read_across_frames=False) as reader:
            data = _read(reader, length + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise DeltaInvalidError(f"{error}"[:120], "zstd") from error
    if len(data) != length:
        raise DeltaInvalidError(f"a part of {len(data)} bytes", f"{length}")
    return data


def _read(reader: zstandard.ZstdDecompressionReader, most: int) -> bytes:
    parts: list[bytes] = []
    while most > 0 and (part := reader.read(min(most, 1 << 20))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _raw(dictionary: bytes) -> zstandard.ZstdCompressionDict | None:
    return zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None


def _window_log(held_bytes: int) -> int:
    """The smallest window that holds so many bytes: what the reader must be ready to keep."""
    return min(max(held_bytes.bit_length(), zstandard.WINDOWLOG_MIN), 27)


def _array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)
