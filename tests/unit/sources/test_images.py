"""A folder of images as a source: rows, bad files, identities by content, and that one image's change is nobody else's."""

import io
import itertools
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SourceSection
from pipeline.errors import ConfigError
from pipeline.labels.log import LogWriter
from pipeline.labels.planning import source_change
from pipeline.labels.rowspace import part_rows
from pipeline.sources import BatchSource, Part, Source, open_source
from pipeline.sources import images as images_module
from pipeline.sources import pixels as pixels_module
from pipeline.sources.looks import digest_of
from pipeline.sources.source import PartChangedError, SourceMissingError
from tests.kit.stores import MemoryStore


def write(folder: Path, name: str, pixels: np.ndarray, *, at: int) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
    os.utime(path, ns=(at, at))


def source_of(base: Path, **options: object) -> Source:
    return open_source(SourceSection(path="images", use="images", kind="floats", options={"size": [2, 3]} | options), base=base)


def look(source: Source, kept: Iterable[str] = ()) -> Sequence[Part]:
    assert isinstance(source, BatchSource)
    return source.parts_beside(list(kept))


def images_of(source: Source, parts: Iterable[Part]) -> dict[str, list[str]]:
    """Part -> names of its images."""
    return {
        part.identity: [row["sample_id"].partition("@")[0] for row in source.read(part.identity, range(part.rows)).to_pylist()]
        for part in parts
    }


def rows_of(source: Source) -> list[dict[str, Any]]:
    """In the order of their labels."""
    (part,) = source.parts()
    return sorted(source.read(part.identity, range(part.rows)).to_pylist(), key=lambda row: (row["label"] or "~", row["problem"] or ""))


def test_an_image_is_a_row_of_numbers_with_its_folders_name_as_label(tmp_path):
    grey = np.array([[0, 51, 102], [153, 204, 255]])
    write(tmp_path / "images", "cat/one.png", grey, at=1)
    write(tmp_path / "images", "dog/two.png", np.stack([grey, 0 * grey, 255 - grey], axis=2), at=2)
    rows = rows_of(source_of(tmp_path))
    np.testing.assert_allclose(rows[0]["input"], [0, 0.2, 0.4, 0.6, 0.8, 1], atol=1e-6)
    assert [row["label"] for row in rows] == ["cat", "dog"]
    colour = rows_of(source_of(tmp_path, mode="RGB"))[1]["input"]
    np.testing.assert_allclose(colour, [0, 0.2, 0.4, 0.6, 0.8, 1, *[0] * 6, 1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-6)


def test_an_image_that_is_none_or_too_large_is_a_bad_row(tmp_path, monkeypatch):
    write(tmp_path / "images", "cat/good.png", np.zeros((2, 3)), at=1)
    write(tmp_path / "images", "cat/large.png", np.zeros((50, 50)), at=2)
    (tmp_path / "images" / "cat" / "broken.png").write_bytes(b"\x89PNG no more")
    monkeypatch.setattr(pixels_module, "MAX_PIXELS", 100)
    problems = [row["problem"] for row in rows_of(source_of(tmp_path))]
    assert problems[0] is None
    assert str(problems[1]).startswith("cat/broken.png: not an image")
    assert problems[2] == "cat/large.png: 50 x 50 pixels; expected at most 100"


def three(tmp_path: Path) -> Path:
    """Three images, changed at 10, 11 and 12."""
    for number in range(3):
        write(tmp_path / "images", f"cat/{number}.png", np.full((2, 3), number), at=10 + number)
    return tmp_path / "images"


@pytest.mark.parametrize("at", [1, 11, 100])
@pytest.mark.parametrize("name", ["ant/new.png", "cat/00.png", "zebra/new.png"])
def test_an_image_that_is_added_is_a_part_of_its_own_whatever_its_name_and_time_of_change(tmp_path: Path, at: int, name: str) -> None:
    folder = three(tmp_path)
    (before,) = source_of(tmp_path).parts()
    write(folder, name, np.full((2, 3), 9), at=at)
    source = source_of(tmp_path)
    kept, new = look(source, [before.identity])
    assert kept == before
    assert images_of(source, [new]) == {new.identity: [name]}
    assert sorted(images_of(source, [kept])[before.identity]) == ["cat/0.png", "cat/1.png", "cat/2.png"]


def test_an_image_that_is_removed_is_one_bad_row(tmp_path: Path) -> None:
    folder, source = three(tmp_path), source_of(tmp_path)
    (before,) = source.parts()
    (folder / "cat" / "1.png").unlink()
    for reader in (source, source_of(tmp_path)):
        assert [part.identity for part in look(reader, [before.identity])] == [before.identity]
        rows = reader.read(before.identity, range(3)).to_pylist()
        assert sorted(row["problem"] or "" for row in rows) == ["", "", "an image that is gone since it was planned"]
        assert {row["sample_id"].partition("@")[0] for row in rows if not row["problem"]} == {"cat/0.png", "cat/2.png"}


def test_an_image_that_was_replaced_is_one_bad_row_and_one_new_one(tmp_path: Path) -> None:
    folder = three(tmp_path)
    (before,) = source_of(tmp_path).parts()
    write(folder, "cat/1.png", np.full((2, 3), 200), at=11)
    source = source_of(tmp_path)
    kept, new = look(source, [before.identity])
    problems = [row["problem"] for row in source.read(kept.identity, range(3)).to_pylist()]
    assert sorted(problem or "" for problem in problems) == ["", "", "cat/1.png: changed since it was planned"]
    assert source.read(new.identity, [0]).column("input")[0].as_py()[0] == pytest.approx(200 / 255)
    write(folder, "cat/1.png", np.full((2, 3), 1), at=50)
    assert [part.identity for part in look(source_of(tmp_path), [kept.identity, new.identity])] == [kept.identity, new.identity]
    assert source.read(kept.identity, range(3)).column("problem").null_count == 3, "as it was planned once more"


def test_a_copied_folder_of_another_name_keeps_its_identities(tmp_path: Path) -> None:
    folder = three(tmp_path)
    before = source_of(tmp_path).parts()
    shutil.copytree(folder, tmp_path / "elsewhere" / "pictures", copy_function=shutil.copyfile)
    section = SourceSection(path="pictures", use="images", kind="floats", options={"size": [2, 3]})
    there = open_source(section, base=tmp_path / "elsewhere")
    assert there.parts() == before
    assert there.read(before[0].identity, [0, 1, 2]) == source_of(tmp_path).read(before[0].identity, [0, 1, 2])


def test_an_image_in_another_class_is_another_image(tmp_path: Path) -> None:
    folder = three(tmp_path)
    (before,) = source_of(tmp_path).parts()
    (folder / "dog").mkdir()
    (folder / "cat" / "1.png").rename(folder / "dog" / "1.png")
    source = source_of(tmp_path)
    _, new = look(source, [before.identity])
    assert images_of(source, [new]) == {new.identity: ["dog/1.png"]}


def test_an_image_that_comes_later_is_not_seen_until_it_rests(tmp_path: Path) -> None:
    folder, source = three(tmp_path), source_of(tmp_path)
    before = source.parts()
    written = io.BytesIO()
    PIL.Image.fromarray(np.full((40, 40), 7, dtype=np.uint8)).save(written, "PNG")
    with (folder / "cat" / "slow.png").open("wb") as file:
        for byte in written.getvalue()[:-1:20]:
            file.write(bytes([byte]))
            file.flush()
            assert look(source, [before[0].identity]) == before
    (folder / "cat" / "slow.png").write_bytes(written.getvalue())
    assert look(source, [before[0].identity]) == before
    (_, new) = look(source, [before[0].identity])
    assert source.read(new.identity, [0]).column("problem").null_count == 1


def test_images_that_did_not_change_are_hashed_once_however_often_one_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, source = three(tmp_path), source_of(tmp_path)
    hashed: list[str] = []

    def watched_digest(path: Path, size: int) -> bytes:
        hashed.append(path.name)
        return digest_of(path, size)

    monkeypatch.setattr(images_module, "digest_of", watched_digest)
    before = source.parts()
    assert sorted(hashed) == ["0.png", "1.png", "2.png"]
    for _ in range(3):
        assert source.parts() == before
    os.utime(folder / "cat" / "2.png", ns=(99, 99))
    for _ in range(3):
        source.parts()
    assert source.parts() == before, "touched, not changed"
    assert sorted(hashed) == ["0.png", "1.png", "2.png", "2.png"]


def test_a_part_of_which_no_image_is_left_is_gone(tmp_path: Path) -> None:
    folder, source = three(tmp_path), source_of(tmp_path)
    (part,) = source.parts()
    shutil.rmtree(folder / "cat")
    for reader in (source, source_of(tmp_path)):
        assert look(reader, [part.identity]) == []
        with pytest.raises(PartChangedError, match="now gone; expected 3 images"):
            reader.read(part.identity, [0])
    with pytest.raises(PartChangedError):
        source.read("mails.jsonl@0123-45", [])


def test_a_row_that_a_part_never_had_is_refused(tmp_path: Path) -> None:
    three(tmp_path)
    source = source_of(tmp_path)
    (part,) = source.parts()
    for row in (-1, 3):
        with pytest.raises(IndexError, match="rows 0 to 2"):
            source.read(part.identity, [row])


def test_many_images_are_parts_of_bounded_size_in_no_order_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "PART_IMAGES", 16)
    for number in range(64):
        write(tmp_path / "images", f"{'a' if number < 32 else 'b'}/{number}.png", np.full((2, 3), number), at=number)
    source = source_of(tmp_path)
    parts = source.parts()
    assert [part.rows for part in parts] == [16] * 4
    assert len({part.name for part in parts}) == 4
    labels = [set(source.read(part.identity, range(16)).column("label").to_pylist()) for part in parts]
    assert labels == [{"a", "b"}] * 4


@pytest.mark.parametrize(
    "name", [".thumbnails/1.png", "cat/.hidden.png", "1.png", "cat/deep/1.png", "cat/notes.txt", "cat/folder.png/1.png"]
)
def test_what_is_no_image_of_a_class_is_not_seen(tmp_path: Path, name: str) -> None:
    folder = three(tmp_path)
    before = source_of(tmp_path).parts()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert source_of(tmp_path).parts() == before


PIXELS = []
for shade in range(4):
    encoded = io.BytesIO()
    PIL.Image.fromarray(np.full((2, 3), shade, dtype=np.uint8)).save(encoded, "PNG")
    PIXELS.append(encoded.getvalue())
TURNS = st.tuples(
    st.sampled_from(["write", "remove", "touch", "copy"]),
    st.sampled_from([f"{label}/{number}.png" for label, number in itertools.product("ab", "123")]),
    st.integers(0, 3),
    st.integers(0, 100),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(TURNS, max_size=14))
def test_whatever_happens_to_a_folder_each_image_is_planned_once_and_can_be_read(turns: list[Any], tmp_path_factory: Any) -> None:
    base = tmp_path_factory.mktemp("images")
    (base / "images").mkdir()
    log = LogWriter.open(MemoryStore(), holder="h", classes=("a", "b"), nonce="n", now_unix_s=0)
    there: dict[str, int] = {}
    ever: set[tuple[str, int]] = set()
    source = source_of(base)
    for number, (what, name, shade, at, fresh) in enumerate(turns):
        path = base / "images" / name
        if what == "write":
            path.parent.mkdir(exist_ok=True)
            path.with_name(".half").write_bytes(PIXELS[shade])
            path.with_name(".half").replace(path)
            there[name] = shade
        elif what == "remove":
            path.unlink(missing_ok=True)
            there.pop(name, None)
        elif what == "copy":
            shutil.copytree(base / "images", base / str(number) / "images", copy_function=shutil.copyfile)
            base = base / str(number)
        if what in ("write", "touch") and name in there:
            os.utime(base / "images" / name, ns=(at, at))  # as `unzip` and `rsync -t` do
        source = source_of(base) if fresh or what == "copy" else source
        ever |= set(there.items())
        before = [plan.part for plan in log.state.plans]
        look(source, before)
        parts = look(source, before)
        log.queue(list(source_change(log.state, ((p.identity, p.name, p.rows) for p in parts), unit_rows=2, generation=1).new))
        state = log.flush(now_unix_s=0)

        assert state.rows_planned == len(ever)
        found: dict[str, int] = {}
        for plan in state.plans:
            if plan.part in {part.identity for part in parts}:
                rows = part_rows(plan, np.arange(plan.first, plan.first + plan.rows))
                good = [row for row in source.read(plan.part, rows).to_pylist() if row["problem"] is None]
                assert not found.keys() & {row["sample_id"].partition("@")[0] for row in good}
                found |= {row["sample_id"].partition("@")[0]: round(row["input"][0] * 255) for row in good}
                assert all(row["sample_id"].startswith(f"{row['label']}/") for row in good)
        assert found == there


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"options": {}}, "options.size"),
        ({"options": {"size": [0, 3]}}, "options.size"),
        ({"options": {"size": [2, 3], "mode": "CMYK"}}, "options.mode"),
        ({"options": {"size": [2, 3], "colour": True}}, "'colour'"),
        ({"kind": "text"}, "kind of a source of images"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, section, problem):
    (tmp_path / "images").mkdir()
    given = {"path": "images", "use": "images", "kind": "floats", "options": {"size": [2, 3]}} | section
    with pytest.raises(ConfigError, match=problem):
        open_source(SourceSection.model_validate(given), base=tmp_path)


@pytest.mark.parametrize("url", ["s3://bucket/images", "gs://bucket/images", "az://container/images"])
def test_images_on_an_object_store_are_refused_by_name(tmp_path: Path, url: str) -> None:
    section = SourceSection(path=url, use="images", kind="floats", options={"size": [2, 3]})
    with pytest.raises(ConfigError, match=f"source of images: found '{url}'; expected a folder on disk; copy the images"):
        open_source(section, base=tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceMissingError, match="images"):
        source_of(tmp_path)
