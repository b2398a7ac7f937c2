"""A user's own source, from their own folder: what it may return and what is refused."""

from pathlib import Path
from typing import Literal

import pytest

from pipeline.config import LabellingSection, SourceSection, TeacherSection
from pipeline.sources import GrowingSource, SourceSpec, open_source
from pipeline.sources.source import UserSourceError
from workers.labelling import Labelling

SOURCE = """
import pyarrow as pa
from dataclasses import dataclass

@dataclass
class Piece:
    identity: str
    rows: int

class Numbers:
    def __init__(self, count): self.count = count
    def parts(self): return [Piece("numbers-" + str(self.count), self.count)]
    def read(self, identity, rows): return {read}

def make(count=3, path=None): return Numbers(count)
def other(): return 5
"""


def open_module(tmp_path: Path, name: str, read: str, *, use: str = "make", kind: Literal["text", "floats"] = "text"):
    (tmp_path / f"{name}.py").write_text(SOURCE.replace("{read}", read))
    return open_source(SourceSection(use=f"{name}:{use}", options={"count": 4} if use == "make" else {}, kind=kind), base=tmp_path)


def test_what_a_users_source_leaves_out_is_filled_in(tmp_path: Path) -> None:
    source = open_module(tmp_path, "own_source_a", 'pa.record_batch({"input": [None if r == 2 else str(r) for r in rows]})')
    (part,) = source.parts()
    assert (part.identity, part.name, part.rows) == ("numbers-4", "numbers-4", 4)
    assert source.read(part.identity, [3, 2]).to_pylist() == [
        {"sample_id": "numbers-4:3", "input": "3", "label": None, "problem": None},
        {"sample_id": "numbers-4:2", "input": None, "label": None, "problem": "no input"},
    ]


def test_a_users_table_of_numbers_is_cast(tmp_path: Path) -> None:
    source = open_module(
        tmp_path, "own_source_b", 'pa.table({"input": [[r, 1] for r in rows], "label": [str(r) for r in rows]})', kind="floats"
    )
    assert source.read("numbers-4", [1]).to_pylist()[0]["input"] == [1.0, 1.0]
    assert source.read("numbers-4", []).num_rows == 0


@pytest.mark.parametrize(
    ("name", "read", "says"),
    [
        ("own_source_c", "[1, 2]", "returned a list"),
        ("own_source_d", 'pa.record_batch({"input": ["x"]})', "returned 1 rows; expected the 2 asked for"),
        ("own_source_e", 'pa.record_batch({"text": ["x", "y"]})', "columns text; expected `input`"),
        ("own_source_f", 'pa.record_batch({"input": [[1], [2]]})', "input is list"),
        ("own_source_g", 'pa.record_batch({"input": ["x", "y"], "sample_id": ["a", None]})', "1 rows without sample_id"),
    ],
)
def test_a_users_source_that_breaks_the_protocol_is_told_how(name: str, read: str, says: str, tmp_path: Path) -> None:
    source = open_module(tmp_path, name, read)
    with pytest.raises(UserSourceError, match=says):
        source.read("numbers-4", [0, 1])


GROWING = """
import pyarrow as pa
from pipeline.sources import Part

class Diary:
    def __init__(self, pages): self.pages = pages
    def parts(self): return [Part(identity=f"diary-{self.pages}", name="diary", rows=self.pages)]
    def read(self, identity, rows): return pa.record_batch({"input": [f"page {row}" for row in rows]})
    def grown_from(self, identity): return {grown}

def make(pages): return Diary(pages)
"""


def open_diary(tmp_path: Path, name: str, pages: int, grown: str) -> SourceSpec:
    (tmp_path / f"{name}.py").write_text(GROWING.replace("{grown}", grown))
    return SourceSpec(section=SourceSection(use=f"{name}:make", options={"pages": pages}), base=tmp_path)


def test_of_a_users_source_that_grows_only_what_is_new_is_planned(tmp_path: Path) -> None:
    same = 'f"diary-{self.pages}" if int(identity.split("-")[1]) <= self.pages else None'
    summaries = []
    for generation, pages in enumerate((3, 5), start=1):
        labelling = Labelling(
            store_url=str(tmp_path / "labels"),
            source=open_diary(tmp_path, "own_diary", pages, same),
            teacher=TeacherSection(use="nobody:asks"),
            classes=("a", "b"),
            base=tmp_path,
            section=LabellingSection(),
            seed=1,
            generation=generation,
            holder="the test",
        )
        summaries.append(labelling.plan())
    assert [(summary.rows_new, summary.rows_superseded) for summary in summaries] == [(3, 0), (2, 0)]


def test_a_users_source_that_does_not_grow_does_not_pass_for_one_that_does(tmp_path: Path) -> None:
    assert not isinstance(open_module(tmp_path, "own_source_i", "None"), GrowingSource)
    source = open_diary(tmp_path, "own_diary_b", 3, "7").open()
    assert isinstance(source, GrowingSource)
    with pytest.raises(UserSourceError, match=r"grown_from\(\) returned 7; expected the identity"):
        source.grown_from("diary-2")


def test_something_that_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserSourceError, match="a int without parts and read"):
        open_module(tmp_path, "own_source_h", "None", use="other")
