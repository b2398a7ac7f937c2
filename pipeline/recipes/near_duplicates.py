"""Groups of texts that say nearly the same: MinHash over word shingles, bands to find candidates, then a check of each.

Splits of a corpus keep such a group on one side; otherwise a test measures memory. Deterministic: the hash functions come
from a fixed seed. Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3.

D documents, S shingles of one document, P hash functions.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HASHES = 128
BANDS = 32
"""Of 4 rows each: a pair at similarity 0.5 is a candidate with probability 0.87, at 0.6 with 0.99."""
SHINGLE_WORDS = 4
_WORD = re.compile(r"[^\W\d_]+")
_SEED = 20020822


def cluster_near_duplicates(texts: Sequence[str], *, similarity_min: float = 0.5) -> NDArray[np.int32]:
    """For each text the index of the first text of its group, [D]. Groups are closed under "is nearly the same as".

    Texts are compared by their words (case, digits and punctuation aside) with estimated Jaccard similarity.
    """
    signatures_DP = np.stack([signature(text) for text in texts]) if texts else np.empty((0, HASHES), dtype=np.uint32)
    parents = np.arange(len(texts), dtype=np.int32)
    rows = HASHES // BANDS
    for band in range(BANDS):
        keys_D = np.ascontiguousarray(signatures_DP[:, band * rows : (band + 1) * rows]).view(f"V{4 * rows}").ravel()
        order = np.argsort(keys_D, kind="stable")
        same = keys_D[order][1:] == keys_D[order][:-1]
        for left, right in zip(order[:-1][same], order[1:][same], strict=True):
            if np.mean(signatures_DP[left] == signatures_DP[right]) >= similarity_min:
                _join(parents, int(left), int(right))
    return np.array([_root(parents, index) for index in range(len(texts))], dtype=np.int32)


def signature(text: str) -> NDArray[np.uint32]:
    """Minimum of each hash function over the text's shingles, [P]. A text without words has the signature of its bytes."""
    words = np.array([zlib.crc32(word.encode()) for word in _WORD.findall(text.lower())], dtype=np.uint64)
    if not len(words):
        words = np.array([zlib.crc32(text.encode())], dtype=np.uint64)
    width = min(SHINGLE_WORDS, len(words))
    shingles_S = np.zeros(len(words) - width + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for place in range(width):
            shingles_S = shingles_S * np.uint64(0x9E3779B97F4A7C15) + words[place : place + len(shingles_S)] + np.uint64(1)
        shingles_S = np.unique(shingles_S ^ (shingles_S >> np.uint64(29)))
        hashed_PS = _MULTIPLIERS_P[:, None] * shingles_S[None, :] + _OFFSETS_P[:, None]
    minima_P: NDArray[np.uint32] = (hashed_PS >> np.uint64(32)).min(axis=1).astype(np.uint32)
    return minima_P


def _constants() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    generator = np.random.Generator(np.random.Philox(_SEED))
    drawn = generator.integers(0, 2**64, size=(2, HASHES), dtype=np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]


_MULTIPLIERS_P, _OFFSETS_P = _constants()


def _root(parents: NDArray[np.int32], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = int(parents[index])
    return index


def _join(parents: NDArray[np.int32], left: int, right: int) -> None:
    left, right = _root(parents, left), _root(parents, right)
    parents[max(left, right)] = min(left, right)
