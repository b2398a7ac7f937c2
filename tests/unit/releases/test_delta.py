"""Deltas: any bytes come back, nothing but the signed bytes ever does, and nothing grows beyond what was signed."""

import hashlib
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.releases import delta as deltas
from pipeline.releases.delta import DeltaInvalidError, Span, apply_delta, make_delta, weights_spans
from tests.kit.bundles import moved_table, text_bundle

HEADER_BYTES = 24


def applied(delta: bytes, old: bytes, new: bytes) -> bytes:
    return apply_delta(delta, old, sha256=hashlib.sha256(new).hexdigest(), length=len(new))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes, list[Span]]:
    """Two strings that share parts, and spans that lie in both."""
    old = draw(st.binary(max_size=300))
    new = draw(st.binary(max_size=100)) + old[draw(st.integers(0, 300)) :] + draw(st.binary(max_size=100))
    spans, at = [], 0
    for _ in range(draw(st.integers(0, 3))):
        begin = at + draw(st.integers(0, 40))
        length = draw(st.integers(0, 60))
        start = draw(st.integers(0, 300))
        if begin + length <= len(new) and start + length <= len(old):
            spans.append(Span(old=start, new=begin, length=length))
            at = begin + length
    return old, new, spans


@given(pairs())
def test_any_bytes_come_back(pair: tuple[bytes, bytes, list[Span]]) -> None:
    old, new, spans = pair
    assert applied(make_delta(old, new, spans), old, new) == new
    assert applied(make_delta(old, new), old, new) == new


@given(pairs(), st.data())
def test_a_corrupt_delta_is_an_error_and_never_other_bytes(pair: tuple[bytes, bytes, list[Span]], data: st.DataObject) -> None:
    old, new, spans = pair
    bad = bytearray(make_delta(old, new, spans))
    place = data.draw(st.integers(0, len(bad) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "add"])):
        case "flip":
            bad[place] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del bad[place:]
        case "add":
            bad[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    try:
        found = applied(bytes(bad), old, new)
    except DeltaInvalidError:
        return
    assert found == new  # a bit that nobody reads


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_bytes_that_are_no_delta_are_refused(noise: bytes, old: bytes) -> None:
    with pytest.raises(DeltaInvalidError):
        apply_delta(noise, old, sha256="0" * 64, length=100)


def test_the_wrong_base_is_refused(tmp_path: Path) -> None:
    old, new = b"a" * 500, b"b" * 500
    delta = make_delta(old, new, [Span(old=0, new=0, length=400)])
    with pytest.raises(DeltaInvalidError, match="digest"):
        applied(delta, b"c" * 500, new)
    with pytest.raises(DeltaInvalidError, match="500"):
        applied(delta, b"a" * 499, new)


def test_a_delta_of_a_later_version_is_refused() -> None:
    delta = bytearray(make_delta(b"a", b"b"))
    delta[4] = 3
    with pytest.raises(DeltaInvalidError, match="version 3"):
        applied(bytes(delta), b"a", b"b")


def few_moved(seed: int, *, share: float = 0.1) -> tuple[bytes, bytes, list[Span]]:
    """Weights of which a few differ by a little."""
    generator = random.Random(seed)
    old = generator.randbytes(4000)
    new = bytes((byte + (generator.choice((1, 2, 254, 255)) if generator.random() < share else 0)) % 256 for byte in old)
    return old, new, [Span(old=0, new=0, length=4000)]


@given(st.integers(0, 99), st.floats(0, 0.3), st.integers(0, 200), st.integers(0, 7))
def test_where_few_bytes_differ_they_come_apart_and_what_is_corrupt_is_refused(seed: int, share: float, place: int, bit: int) -> None:
    old, new, spans = few_moved(seed, share=share)
    delta = bytearray(make_delta(old, new, spans))
    assert applied(bytes(delta), old, new) == new
    delta[place % len(delta)] ^= 1 << bit
    try:
        found = applied(bytes(delta), old, new)
    except DeltaInvalidError:
        return
    assert found == new


def test_a_delta_of_version_1_is_read_and_one_from_nothing_is_of_it() -> None:
    parameters = zstandard.ZstdCompressionParameters(write_content_size=False, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes([0, 2]))
    delta = struct.pack("<4sBB2xIIII", b"KDPD", 1, 1, 2, 2, len(packed), 0) + struct.pack("<III", 0, 0, 2) + packed
    assert applied(delta, b"aa", b"ac") == b"ac"
    assert make_delta(b"", b"abc")[4] == 1
    assert make_delta(*few_moved(1))[4] == 2


@pytest.mark.parametrize("count", [0, 2, 2**32 - 1])
def test_a_count_that_is_not_that_of_the_bits_is_refused_before_anything_of_its_size_is_held(count: int) -> None:
    old, new, spans = few_moved(1)
    delta = bytearray(make_delta(old, new, spans))
    struct.pack_into("<I", delta, 24 + 12 + 4, count)
    with pytest.raises(DeltaInvalidError, match="differ"):
        applied(bytes(delta), old, new)


def bomb(part: bytes, *, packed: bytes = b"", length: int = 1000) -> bytes:
    return struct.pack("<4sBB2xIIII", b"KDPD", 1, 0, 0, length, len(packed), len(part)) + packed + part


def test_a_part_that_unpacks_to_more_than_was_signed_is_refused_and_never_held() -> None:
    parameters = zstandard.ZstdCompressionParameters(write_content_size=False, format=zstandard.FORMAT_ZSTD1_MAGICLESS, window_log=10)
    part = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(50 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DeltaInvalidError):
            apply_delta(bomb(part), b"", sha256="0" * 64, length=1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_that_asks_for_a_larger_window_than_both_bundles_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(write_content_size=False, format=zstandard.FORMAT_ZSTD1_MAGICLESS, window_log=27)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    part = frame.compress(bytes(1000)) + frame.flush()
    with pytest.raises(DeltaInvalidError, match="zstd"):
        apply_delta(bomb(part), b"", sha256=hashlib.sha256(bytes(1000)).hexdigest(), length=1000)


def test_a_signed_length_beyond_the_limit_is_refused_before_anything_is_held() -> None:
    length = deltas.MAX_DELTA_BUNDLE_BYTES + 1
    with pytest.raises(DeltaInvalidError, match="at most"):
        apply_delta(bomb(b"", length=length), b"", sha256="0" * 64, length=length)


@pytest.mark.parametrize(
    "spans",
    [
        [Span(old=0, new=0, length=5), Span(old=0, new=4, length=5)],
        [Span(old=0, new=8, length=5)],
        [Span(old=8, new=0, length=5)],
        [Span(old=0, new=0, length=2**32 - 1)],
        [Span(old=0, new=0, length=0)] * 65,
    ],
)
def test_spans_that_overlap_leave_the_bundles_or_are_too_many_are_refused(spans: list[Span]) -> None:
    packed = b"".join(struct.pack("<III", span.old, span.new, span.length) for span in spans)
    delta = struct.pack("<4sBB2xIIII", b"KDPD", 1, len(spans), 10, 10, 0, 0) + packed
    with pytest.raises(DeltaInvalidError):
        apply_delta(delta, bytes(10), sha256="0" * 64, length=10)


def test_a_bundle_with_little_changed_has_a_small_delta(tmp_path: Path) -> None:
    old, new = text_bundle(tmp_path, release=1), text_bundle(tmp_path, release=2, table=moved_table())
    before, after = old.path.read_bytes(), new.path.read_bytes()
    delta = make_delta(before, after)
    assert applied(delta, before, after) == after
    assert weights_spans(before, after)[0].length == 2048
    assert len(delta) < 0.2 * len(after)
    assert make_delta(before, after) == delta


def test_a_small_difference_in_every_code_is_cheaper_than_a_dictionary_makes_it() -> None:
    generator = random.Random(1)
    old = generator.randbytes(5000)
    new = bytes((byte + generator.choice((0, 0, 0, 1, 255))) % 256 for byte in old)
    assert len(make_delta(old, new, [Span(old=0, new=0, length=5000)])) < 0.3 * len(make_delta(old, new, []))


def test_from_nothing_it_is_the_bundle_compressed(tmp_path: Path) -> None:
    new = text_bundle(tmp_path).path.read_bytes()
    packed = make_delta(b"", new)
    assert applied(packed, b"", new) == new
    assert HEADER_BYTES < len(packed) < len(new)


def test_the_error_survives_pickling() -> None:
    error = DeltaInvalidError("a", "b")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
