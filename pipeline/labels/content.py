"""Content keys: when two rows ask a teacher the same thing. A key decides reuse and nothing else; a sample's identity is its id.

BLAKE2b-128 of the bytes the teacher would see: UTF-8 of a text, little-endian float32 of numbers. Same bits, same key: 0.0 and -0.0 are
two contents, which costs a question and never a label. Cryptographic, so that nobody who writes samples can make one take another's label.
Each shard carries the keys of its rows, under the same checksum as their labels; keys from elsewhere are hints.

N rows; the two halves of a key are unsigned 64-bit numbers.
"""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

KEY_BYTES = 16
KEY_TYPE = pa.binary(KEY_BYTES)
_VERSION = "1"


def content_keys(inputs: pa.Array) -> NDArray[np.uint64]:
    """uint64 [N, 2], high and low halves. Zeros, which are no key, where an input is missing or of a kind that has no keys."""
    seen = _as_bytes(inputs)
    if seen is None:
        return no_keys(len(inputs))
    kind, data, offsets_N = seen
    digests = b"".join(_digests(data, offsets_N, person=f"kdpipe {kind} {_VERSION}".encode()))
    keys_N2 = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
    if not inputs.null_count:
        return keys_N2
    missing_N1 = inputs.is_null().to_numpy(zero_copy_only=False)[:, None]
    return np.where(missing_N1, np.uint64(0), keys_N2)


def no_keys(rows: int) -> NDArray[np.uint64]:
    """Of rows that take no label from others and give none."""
    return np.zeros((rows, 2), dtype="<u8")


def is_key(keys_N2: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which rows have one."""
    return np.asarray(keys_N2.any(axis=1))


def key_column(keys_N2: NDArray[np.uint64]) -> pa.Array:
    """As a shard stores them."""
    return pa.FixedSizeBinaryArray.from_buffers(KEY_TYPE, len(keys_N2), [None, pa.py_buffer(np.ascontiguousarray(keys_N2, dtype="<u8"))])


def keys_of_column(column: pa.Array) -> NDArray[np.uint64]:
    """uint64 [N, 2], a view of the stored column."""
    halves = np.frombuffer(column.buffers()[1], dtype="<u8").reshape(-1, 2) if len(column) else no_keys(0)
    return halves[column.offset : column.offset + len(column)]


def repeats(keys_N2: NDArray[np.uint64]) -> NDArray[np.int64]:
    """int64 [N]: the first place in the batch with the same content, which is the place itself for most."""
    first_of, inverse_N = np.unique(keys_N2[:, 0], return_index=True, return_inverse=True)[1:]
    first_N = first_of[inverse_N]
    same_N = is_key(keys_N2) & (keys_N2[first_N] == keys_N2).all(axis=1)
    return np.where(same_N, first_N, np.arange(len(keys_N2)))


def _digests(data: memoryview, offsets_N: NDArray[np.int64], *, person: bytes) -> Iterator[bytes]:
    begun = blake2b(digest_size=KEY_BYTES, person=person).copy  # a copy is cheaper than a new one with arguments
    for start, stop in pairwise(offsets_N.tolist()):
        hashing = begun()
        hashing.update(data[start:stop])
        yield hashing.digest()


def _as_bytes(inputs: pa.Array) -> tuple[str, memoryview, NDArray[np.int64]] | None:
    """(kind, bytes of all inputs, where each begins and the last ends), without a copy."""
    if pa.types.is_string(inputs.type):
        _, offsets, data = inputs.buffers()
        bounds = np.frombuffer(offsets, dtype=np.int32)[inputs.offset : inputs.offset + len(inputs) + 1] if offsets else np.zeros(1)
        return "text", memoryview(data or b"").cast("B"), bounds.astype(np.int64)
    if pa.types.is_list(inputs.type) and pa.types.is_float32(inputs.type.value_type) and not inputs.values.null_count:
        data = inputs.values.buffers()[1]
        bounds = (inputs.offsets.to_numpy().astype(np.int64) + inputs.values.offset) * 4
        return "floats", memoryview(data or b"").cast("B"), bounds
    return None
