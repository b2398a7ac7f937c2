"""Tables: where the label of a content lies, as one immutable sorted file that is looked up in place.

    head     magic, version, rows, words of the filter
    filter   uint64[words]   a bloom filter: 4 bits a row, all in the word that the high half points at
    high     uint64[rows]    ascending, each once
    low      uint64[rows]
    commit   uint32[rows]    number in the log
    place    uint32[rows]    row of that commit's shard

Little-endian. The halves are of a content key mixed with who labelled it (`mixed`), so that labels of another teacher or codec are never
found. A look-up touches one word of the filter, and for what may be there some pages of `high`; all memory is the file's, mapped.
What a table says is a hint: the shard has the key too, and is checked. Of two contents with the same high half one is forgotten.

N rows, Q keys that are looked up.
"""

import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import LabelStoreError
from pipeline.labels.content import is_key

TABLE_VERSION = 1
BITS_PER_ROW = 12
ROW_BYTES = 24
_MAGIC = b"kdpknown"
_HEAD = struct.Struct("<8sIIQQ")
_PROBES = 4


class TableUnreadableError(LabelStoreError):
    """A table is damaged or of another version. Nothing depends on it: the next one is made from the shards."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)
        self.key, self.problem = key, problem

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}; expected a table of version {TABLE_VERSION}; the next `kdpipe run` makes it anew"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Entries of tables, ascending by commit."""

    keys_N2: NDArray[np.uint64]
    commit_N: NDArray[np.uint32]
    place_N: NDArray[np.uint32]

    def since(self, commit: int) -> "Rows":
        """Those of commits from this one on."""
        kept_N = self.commit_N >= commit
        return Rows(keys_N2=self.keys_N2[kept_N], commit_N=self.commit_N[kept_N], place_N=self.place_N[kept_N])


def mixed(keys_N2: NDArray[np.uint64], maker: bytes) -> NDArray[np.uint64]:
    """The keys as tables hold them, for labels of one maker; rows without a key stay without one."""
    mark_2 = np.frombuffer(blake2b(maker, digest_size=16, person=b"kdpipe maker 1").digest(), dtype="<u8")
    return np.where(is_key(keys_N2)[:, None], keys_N2 ^ mark_2, np.uint64(0))


def joined(parts: list[Rows]) -> Rows:
    """All entries; the parts follow each other in the log."""
    return Rows(
        keys_N2=np.concatenate([part.keys_N2 for part in parts]),
        commit_N=np.concatenate([part.commit_N for part in parts]),
        place_N=np.concatenate([part.place_N for part in parts]),
    )


def table_bytes(rows: int) -> int:
    """Size of a table of so many rows with different keys."""
    return _HEAD.size + 8 * _words(rows) + ROW_BYTES * rows


def encode_table(rows: Rows) -> bytes:
    """The bytes of a table. Of entries for the same content the newest stays; rows without a key are left out."""
    with_key = np.flatnonzero(is_key(rows.keys_N2))
    by_key = with_key[np.argsort(rows.keys_N2[with_key, 0], kind="stable")]
    high_N = rows.keys_N2[by_key, 0]
    newest_N = np.append(high_N[1:] != high_N[:-1], True)[: len(high_N)]
    by_key, high_N = by_key[newest_N], high_N[newest_N]
    low_N = rows.keys_N2[by_key, 1]
    words = _words(len(high_N))
    bloom = np.zeros(words, dtype="<u8")
    if len(high_N):
        touched, first_N = np.unique(_word(high_N, words), return_index=True)  # ascending, as the keys are
        bloom[touched] = np.bitwise_or.reduceat(_bits(low_N), first_N)
    parts = [bloom, high_N, low_N, rows.commit_N[by_key].astype("<u4"), rows.place_N[by_key].astype("<u4")]
    return _HEAD.pack(_MAGIC, TABLE_VERSION, 0, len(high_N), words) + b"".join(part.tobytes() for part in parts)


class Table:
    """One table, opened. `data` may be a mapped file; bytes are not checked, see above."""

    def __init__(self, data: Any, *, key: str) -> None:
        if len(data) < _HEAD.size:
            raise TableUnreadableError(key, f"{len(data)} bytes")
        magic, version, _, rows, words = _HEAD.unpack_from(data)
        if (magic, version) != (_MAGIC, TABLE_VERSION):
            raise TableUnreadableError(key, f"{magic!r} of version {version}")
        if not words or len(data) != _HEAD.size + 8 * words + ROW_BYTES * rows:
            raise TableUnreadableError(key, f"{len(data)} bytes for {rows} rows")
        at = _HEAD.size
        self._bloom = np.frombuffer(data, "<u8", words, at)
        self._high_N = np.frombuffer(data, "<u8", rows, at := at + 8 * words)
        self._low_N = np.frombuffer(data, "<u8", rows, at := at + 8 * rows)
        self._commit_N = np.frombuffer(data, "<u4", rows, at := at + 8 * rows)
        self._place_N = np.frombuffer(data, "<u4", rows, at + 4 * rows)

    def __len__(self) -> int:
        return len(self._high_N)

    def find(self, keys_Q2: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(commit, place) of each key, int64 [Q]; commit is -1 where there is none."""
        commit_Q, place_Q = np.full(len(keys_Q2), -1, dtype=np.int64), np.zeros(len(keys_Q2), dtype=np.int64)
        asked = np.flatnonzero(self.passed(keys_Q2))
        if len(asked) and len(self):
            at = np.minimum(np.searchsorted(self._high_N, keys_Q2[asked, 0]), len(self) - 1)
            hit = (self._high_N[at] == keys_Q2[asked, 0]) & (self._low_N[at] == keys_Q2[asked, 1])
            commit_Q[asked[hit]], place_Q[asked[hit]] = self._commit_N[at[hit]], self._place_N[at[hit]]
        return commit_Q, place_Q

    def passed(self, keys_Q2: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which keys may be there, by the filter alone."""
        bits_Q = _bits(keys_Q2[:, 1])
        return np.asarray(self._bloom[_word(keys_Q2[:, 0], len(self._bloom))] & bits_Q == bits_Q)

    def rows(self) -> Rows:
        """All entries, ascending by commit."""
        by_commit = np.argsort(self._commit_N, kind="stable")
        return Rows(
            keys_N2=np.stack([self._high_N[by_commit], self._low_N[by_commit]], axis=1),
            commit_N=self._commit_N[by_commit],
            place_N=self._place_N[by_commit],
        )


def _words(rows: int) -> int:
    return max(rows * BITS_PER_ROW // 64, 1)


def _word(high_N: NDArray[np.uint64], words: int) -> NDArray[np.uint64]:
    """Where in the filter: proportional to the key, so that keys in order touch it in order."""
    return (high_N >> np.uint64(32)) * np.uint64(words) >> np.uint64(32)


def _bits(low_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits_N = np.zeros(len(low_N), dtype="<u8")
    for probe in range(_PROBES):
        bits_N |= np.uint64(1) << (low_N >> np.uint64(6 * probe) & np.uint64(63))
    return bits_N
