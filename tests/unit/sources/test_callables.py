"""A user's own source, from their own folder: what it may return and what is refused."""

from pathlib import Path
from typing import Literal

import pytest

from pipeline.config import SourceSection
from pipeline.sources import open_source
from pipeline.sources.source import UserSourceError

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


def test_something_that_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserSourceError, match="a int without parts and read"):
        open_module(tmp_path, "own_source_h", "None", use="other")
