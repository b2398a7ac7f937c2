"""Some of many samples, the same ones each time, wherever they stand: a file may be sorted by class, by size or by date.

What is measured on a few (scales of activations, importance of weights, golden answers) is measured on a draw, not on the first.
"""

import hashlib

from pipeline.students.samples import Samples


def drawn(samples: Samples, most: int) -> Samples:
    """At most `most` of them, by a hash of their ids, in the order that they stand in."""
    if len(samples) <= most:
        return samples
    return samples.take(sorted(sorted(range(len(samples)), key=lambda row: _hash(samples.ids[row]))[:most]))


def _hash(sample_id: str) -> bytes:
    """Another one than decides which part of validation a sample is in: within a part that one is not uniform."""
    return hashlib.blake2b(sample_id.encode(), digest_size=8, person=b"kdpipe draw").digest()
