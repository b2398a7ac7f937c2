"""The bundle file: deterministic, and read as if hostile."""

import contextlib
import hashlib
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.releases.bundle import MAX_JSON_BYTES, build_bundle, digest_file, open_bundle, rebuild_bundle
from pipeline.releases.manifest import (
    BundleInvalidError,
    BundleVersionError,
    Golden,
    InputSpec,
    RuntimeNeeds,
    Threshold,
    golden_to_json,
    parse_golden,
    parse_manifest,
)
from pipeline.releases.origin import Origin, OriginInvalidError
from tests.kit.bundles import CLASSES, TEXTS, text_bundle, text_manifest, text_probabilities, text_table


def members(**changes: bytes) -> dict[str, bytes]:
    golden = [Golden(input="a", probabilities=(0.25, 0.75))]
    parts = {
        "manifest.json": json.dumps(text_manifest().to_json()).encode(),
        "golden.json": json.dumps(golden_to_json(golden)).encode(),
        "graph.onnx": b"graph",
        "weights.bin": b"weights",
    }
    return {**parts, **changes}


def pack(path: Path, parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def test_same_parts_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = text_bundle(tmp_path / "a"), text_bundle(tmp_path / "b")
    assert first.sha256 == second.sha256
    assert digest_file(second.path) == (first.sha256, first.length)


def test_an_extracted_bundle_is_made_again_to_the_byte(tmp_path: Path) -> None:
    file = text_bundle(tmp_path)
    (tmp_path / "out").mkdir()
    open_bundle(file.path).extract(tmp_path / "out")
    assert rebuild_bundle(tmp_path / "out") == file.path.read_bytes()


def test_the_layout_is_the_same_with_every_python(tmp_path: Path) -> None:
    """A device makes its bundle again as the base of a delta: other headers than the signer's would cost it every delta."""
    for name in members():
        (tmp_path / name).write_bytes(name.encode())
    headers = rebuild_bundle(tmp_path)
    assert hashlib.sha256(headers).hexdigest() == "d787647d3bc4bd949b303fb53bc663b5ca10a042931c8ed3a978ea22682a90ea"


def test_a_bundle_reads_back_and_extracts_what_went_in(tmp_path: Path) -> None:
    file = text_bundle(tmp_path)
    bundle = open_bundle(file.path)
    assert bundle.manifest == text_manifest()
    assert [g.input for g in bundle.golden] == list(TEXTS)
    assert bundle.golden[0].probabilities == pytest.approx(text_probabilities(TEXTS[0], text_table(1)))
    (tmp_path / "out").mkdir()
    bundle.extract(tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == text_table(1).tobytes()


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "weights.bin/../../x", "WEIGHTS.BIN"])
def test_path_traversal_in_a_bundle_is_refused(tmp_path: Path, name: str) -> None:
    parts = members()
    parts[name] = parts.pop("weights.bin")
    with pytest.raises(BundleInvalidError):
        open_bundle(pack(tmp_path / "b.kdpb", parts))


def test_an_extra_a_missing_or_a_repeated_member_is_refused(tmp_path: Path) -> None:
    extra, missing = members(**{"extra.py": b"x"}), members()
    missing.pop("golden.json")
    with zipfile.ZipFile(pack(tmp_path / "twice.kdpb", members()), "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("weights.bin", b"again")
    for path in (pack(tmp_path / "e", extra), pack(tmp_path / "m", missing), tmp_path / "twice.kdpb"):
        with pytest.raises(BundleInvalidError):
            open_bundle(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = pack(tmp_path / "bomb", members(**{"golden.json": b"[" + b" " * (16 << 20) + b"]"}), zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(BundleInvalidError, match="compressed"):
        open_bundle(bomb)


def test_a_member_that_claims_more_bytes_than_the_file_has_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "b", members())
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the central entry of weights.bin
    data[at + 20 : at + 28] = struct.pack("<II", 1 << 29, 1 << 29)
    path.write_bytes(data)
    with pytest.raises(BundleInvalidError):
        open_bundle(path)


def test_huge_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalidError, match="at most"):
        open_bundle(pack(tmp_path / "b", members(**{"manifest.json": b" " * (MAX_JSON_BYTES + 1)})))


@given(cut=st.integers(0, 3000), at=st.integers(0, 3000), value=st.integers(0, 255))
def test_a_torn_or_flipped_bundle_never_does_anything_but_open_or_refuse(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("b") / "b"
    data = bytearray(pack(path, members()).read_bytes())
    data[at % len(data)] = value
    path.write_bytes(data[: max(0, len(data) - cut % (2 * len(data)))])
    with contextlib.suppress(BundleInvalidError, BundleVersionError):
        open_bundle(path)


def test_a_newer_bundle_is_told_from_a_broken_one() -> None:
    tree = text_manifest().to_json()
    with pytest.raises(BundleVersionError, match="update kdpipe"):
        parse_manifest(json.dumps({**tree, "version": 3}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"classes": ["one"]},
        {"classes": ["a", "a"]},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"temperature": True},
        {"release": 0},
        {"memory_bytes": -1},
        {"input": {"kind": "audio", "name": "x", "max_bytes": 4}},
        {"input": {"kind": "text", "name": "x", "features": 4}},
        {"input": {"kind": "text", "name": "x", "max_bytes": 1 << 40}},
        {"positive": "other"},
        {"student": "x" * 1000},
        {"version": None},
        {"threshold": {"probability": 1.5, "max_false_positive_rate": 0.01}},
        {"threshold": {"probability": 0.5}},
        {"threshold": {"probability": 0.5, "max_false_positive_rate": 0.01}, "positive": None},
        {"runtime": {"opset": 0, "ir_version": 8, "onnxruntime": "1.31.1"}},
        {"runtime": []},
    ],
)
def test_a_manifest_with_a_wrong_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BundleInvalidError):
        parse_manifest(json.dumps({**text_manifest().to_json(), **change}).encode())


ORIGIN = Origin(generation=2, parent="a" * 64, log="l", first_window=0, stop_window=4, rows=90, config={"width": 8}, gate={"ships": True})


def test_what_a_release_needs_and_where_it_came_from_read_back() -> None:
    threshold = Threshold(probability=0.9, max_false_positive_rate=0.01)
    runtime = RuntimeNeeds(opset=17, ir_version=8, onnxruntime="1.31.1")
    manifest = replace(text_manifest(), threshold=threshold, runtime=runtime, origin=ORIGIN)
    assert parse_manifest(json.dumps(manifest.to_json()).encode()) == manifest


def test_a_bundle_of_the_first_version_is_still_read_and_stays_what_it_is() -> None:
    """A device that is updated holds slots of it."""
    old = {**text_manifest().to_json(), "version": 1}
    for name in ("threshold", "runtime", "origin"):
        del old[name]
    manifest = parse_manifest(json.dumps(old).encode())
    assert (manifest.version, manifest.origin) == (1, None)
    assert manifest.to_json() == old


@pytest.mark.parametrize("change", [{"generation": -1}, {"rows": True}, {"parent": 5}, {"gate": []}, {"more": 1}])
def test_an_origin_that_means_nothing_is_refused(change: dict[str, object]) -> None:
    tree = {**text_manifest().to_json(), "origin": {**ORIGIN.to_json(), **change}}
    with pytest.raises(OriginInvalidError):
        parse_manifest(json.dumps(tree).encode())


@pytest.mark.parametrize(
    "golden",
    [b"{}", b"[]", b"[1]", b'[{"input": 1, "probabilities": [0.5, 0.5]}]', b'[{"input": "a", "probabilities": [1]}]', b"[" * 100_000],
)
def test_golden_samples_that_do_not_fit_are_refused(golden: bytes) -> None:
    with pytest.raises(BundleInvalidError):
        parse_golden(golden, text_manifest())


def test_a_bundle_whose_parts_do_not_fit_is_never_written(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"g")
    with pytest.raises(BundleInvalidError):
        build_bundle(
            tmp_path / "out.kdpb",
            manifest=text_manifest(),
            graph=tmp_path / "g",
            weights=tmp_path / "g",
            golden=[Golden(input=(1.0,), probabilities=(0.5, 0.5))],
        )
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


def test_floats_input_is_recorded_as_features() -> None:
    manifest = text_manifest()
    spec = InputSpec(kind="floats", name="x", width=3)
    tree = {**manifest.to_json(), "input": {"kind": "floats", "name": "x", "features": 3}}
    assert parse_manifest(json.dumps(tree).encode()).input == spec
    assert parse_manifest(json.dumps(tree).encode()).classes == CLASSES
