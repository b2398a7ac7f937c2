"""A source of files: identities, any rows in any order, folders that grow, and what a bad row or file does."""

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SourceSection
from pipeline.errors import ConfigError
from pipeline.labels.log import LogWriter
from pipeline.labels.planning import source_change
from pipeline.labels.rowspace import part_rows
from pipeline.sources import SCHEMAS, GrowingSource, SourceSpec, open_source
from pipeline.sources import files as files_module
from pipeline.sources.rows import MAX_ROW_BYTES
from pipeline.sources.source import (
    ColumnMissingError,
    ColumnTypeError,
    FormatUnknownError,
    PartChangedError,
    PartUnreadableError,
    SourceMissingError,
)
from tests.kit.samples import WRITERS, write_jsonl, write_parquet
from tests.kit.stores import MemoryStore

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), min_size=1, max_size=30)


def rows_of(source: Any, *, part: int = 0) -> list[dict[str, Any]]:
    found = source.parts()[part]
    return source.read(found.identity, range(found.rows)).to_pylist()


@pytest.mark.parametrize("ending", WRITERS)
@settings(max_examples=25)
@given(texts=st.lists(TEXTS, min_size=1, max_size=12), data=st.data())
def test_rows_come_back_as_written_in_the_order_asked(ending: str, texts: list[str], data: st.DataObject, tmp_path_factory: Any) -> None:
    base = tmp_path_factory.mktemp("source")
    WRITERS[ending](base / f"s{ending}", {"text": texts, "label": ["x"] * len(texts)})
    asked = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=20))

    source = open_source(SourceSection(path=f"s{ending}", label="label"), base=base)
    (part,) = source.parts()
    batch = source.read(part.identity, asked)

    assert part.rows == len(texts)
    assert batch.schema == SCHEMAS["text"]
    assert batch.column("input").to_pylist() == [texts[row] for row in asked]
    assert batch.column("sample_id").to_pylist() == [f"{part.identity}:{row}" for row in asked]
    assert batch.column("problem").null_count == len(asked)


@pytest.mark.parametrize("ending", WRITERS)
def test_numbers_come_back_as_float32(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"s{ending}", {"x": [[1.5, 2.0], [3.0, -4.25], [0.0, 1e-3]], "who": ["a", "b", "c"]})
    source = open_source(SourceSection(path=f"s{ending}", input="x", kind="floats", id="who"), base=tmp_path)
    batch = source.read(source.parts()[0].identity, [2, 0])
    assert batch.schema == SCHEMAS["floats"]
    assert batch.column("sample_id").to_pylist() == ["c", "a"]
    np.testing.assert_allclose(np.stack(batch.column("input").to_numpy(zero_copy_only=False)), [[0.0, 1e-3], [1.5, 2.0]], rtol=1e-6)


@pytest.mark.parametrize("ending", WRITERS)
def test_a_column_that_is_not_there_is_named_with_those_that_are(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"s{ending}", {"text": ["a"], "label": ["x"]})
    for wrong in ({"input": "body"}, {"id": "body"}, {"label": "body"}, {"options": {"carry": ["body"]}}):
        with pytest.raises(ColumnMissingError, match=r"no column 'body'; expected one of those there: (text, label|label, text);"):
            open_source(SourceSection(path=f"s{ending}", **wrong), base=tmp_path).parts()


def test_a_source_without_labels_works(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "s.jsonl", {"text": ["a", "b"]})
    assert [row["label"] for row in rows_of(open_source(SourceSection(path="s.jsonl"), base=tmp_path))] == [None, None]


def test_a_moved_folder_keeps_its_identities_and_changed_content_gets_new_ones(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_jsonl(tmp_path / "a" / "s.jsonl", {"text": ["x"]})
    before = open_source(SourceSection(path="a"), base=tmp_path).parts()
    (tmp_path / "a").rename(tmp_path / "b")
    assert open_source(SourceSection(path="b"), base=tmp_path).parts() == before
    write_jsonl(tmp_path / "b" / "s.jsonl", {"text": ["y"]})
    assert open_source(SourceSection(path="b"), base=tmp_path).parts() != before


def test_a_planned_part_that_changed_or_went_is_refused_by_the_source_that_saw_it_and_by_a_fresh_one(tmp_path: Path) -> None:
    section = SourceSection(path="s.jsonl")
    write_jsonl(tmp_path / "s.jsonl", {"text": ["x", "y"]})
    source = open_source(section, base=tmp_path)
    (part,) = source.parts()
    write_jsonl(tmp_path / "s.jsonl", {"text": ["x", "z!"]})
    for reader in (source, open_source(section, base=tmp_path)):
        with pytest.raises(PartChangedError, match="as planned"):
            reader.read(part.identity, [0])
    (tmp_path / "s.jsonl").unlink()
    with pytest.raises(PartChangedError, match="now gone"):
        source.read(part.identity, [0])


def test_a_watched_folder_grows_and_half_written_files_are_not_seen(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    source = open_source(SourceSection(path="inbox"), base=tmp_path)
    assert source.parts() == []
    for unfinished in (".tmp-feed-1.parquet", ".hidden.jsonl", "feed-3.parquet.part"):
        (inbox / unfinished).write_bytes(b"half")
    for _ in range(2):
        assert source.parts() == []
    write_parquet(inbox / "feed-2.parquet", {"text": ["b"]})
    assert source.parts() == []
    (first,) = source.parts()
    write_parquet(inbox / "feed-1.parquet", {"text": ["a", "c"]})
    assert source.parts() == [first]
    assert [(part.name, part.rows) for part in source.parts()] == [("feed-1.parquet", 2), ("feed-2.parquet", 1)]
    assert source.parts()[1] == first


@pytest.mark.parametrize("path", ["inbox", "inbox/*.jsonl"])
def test_a_file_that_comes_later_is_there_once_two_looks_in_succession_find_it_the_same(path: str, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    write_jsonl(tmp_path / "inbox" / "first.jsonl", {"text": ["x"]})
    source = open_source(SourceSection(path=path), base=tmp_path)
    assert [part.name for part in source.parts()] == ["first.jsonl"], "the first look takes everything as it is"
    for number in range(4):
        with (tmp_path / "inbox" / "slow.jsonl").open("a") as file:
            file.write(json.dumps({"text": f"line {number}"}) + "\n{")  # half a line more at every look
        assert [part.name for part in source.parts()] == ["first.jsonl"]
    assert [(part.name, part.rows) for part in source.parts()] == [("first.jsonl", 1), ("slow.jsonl", 5)]


def test_a_known_file_that_is_being_changed_is_not_there_until_it_rests(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "s.jsonl", {"text": ["x"]})
    source = open_source(SourceSection(path="*.jsonl"), base=tmp_path)
    before = source.parts()
    write_jsonl(tmp_path / "s.jsonl", {"text": ["x", "longer"]})
    assert source.parts() == []
    (after,) = source.parts()
    assert after.rows == 2
    assert after.identity != before[0].identity


def test_a_file_that_went_and_came_back_must_rest_again(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "s.jsonl", {"text": ["x"]})
    (tmp_path / "t.jsonl").write_text("")
    source = open_source(SourceSection(path="*.jsonl"), base=tmp_path)
    before = source.parts()
    (tmp_path / "s.jsonl").rename(tmp_path / ".away")
    assert [part.name for part in source.parts()] == ["t.jsonl"]
    (tmp_path / ".away").rename(tmp_path / "s.jsonl")
    assert [part.name for part in source.parts()] == ["t.jsonl"]
    assert source.parts() == before


def test_files_that_did_not_change_are_read_once_however_often_one_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, {"text": ["x"]})
    source = open_source(SourceSection(path="."), base=tmp_path)
    opened: list[str] = []
    really_open = Path.open

    def watched_open(path: Path, *args: Any, **options: Any) -> Any:
        opened.append(path.name)
        return really_open(path, *args, **options)

    monkeypatch.setattr(Path, "open", watched_open)
    before = source.parts()
    assert set(opened) == {"a.jsonl", "b.jsonl"}
    opened.clear()
    for _ in range(3):
        assert source.parts() == before
    assert opened == []


def test_new_files_are_hashed_several_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write_jsonl(tmp_path / f"{name}.jsonl", {"text": [name]})
    alone = [open_source(SourceSection(path=f"{name}.jsonl"), base=tmp_path).parts()[0] for name in "abc"]
    really_digest, all_at_it = files_module._digest, threading.Barrier(3)

    def digest(path: Path, size: int) -> str:
        all_at_it.wait(timeout=30)
        return really_digest(path, size)

    monkeypatch.setattr(files_module, "_digest", digest)
    assert open_source(SourceSection(path="."), base=tmp_path).parts() == alone


def test_of_several_files_that_are_unreadable_the_first_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"text": ["x"]})
    for name in "bcd":
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(PartUnreadableError, match=r"b\.parquet: not Parquet"):
        open_source(SourceSection(path="."), base=tmp_path).parts()


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("rows", [[-1], [0, 2], [2]])
def test_a_row_that_a_part_never_had_is_refused(ending: str, rows: list[int], tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"s{ending}", {"text": ["a", "b"]})
    source = open_source(SourceSection(path=f"s{ending}"), base=tmp_path)
    with pytest.raises(IndexError, match="has rows 0 to 1, asked for"):
        source.read(source.parts()[0].identity, rows)


def test_equal_files_stay_two_parts(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, {"text": ["same"]})
    parts = open_source(SourceSection(path="*.jsonl"), base=tmp_path).parts()
    assert len({part.identity for part in parts}) == 2


def test_a_glob_reaches_down_and_a_base_with_brackets_is_no_glob(tmp_path: Path) -> None:
    base = tmp_path / "data [1]"
    (base / "x" / "y").mkdir(parents=True)
    write_jsonl(base / "x" / "y" / "s.jsonl", {"text": ["deep"]})
    write_jsonl(base / "x" / "t.jsonl", {"text": ["less"]})
    assert [part.name for part in open_source(SourceSection(path="x/**/*.jsonl"), base=base).parts()] == ["t.jsonl", "y/s.jsonl"]
    (single,) = open_source(SourceSection(path="x/t.jsonl"), base=base).parts()
    assert single.name == "t.jsonl"


@pytest.mark.parametrize("path", ["nope.jsonl", "*.csv", "no/such/folder", "no/*/x.jsonl"])
def test_a_path_that_names_nothing_says_what_is_there(path: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mails.jsonl", {"text": ["x"]})
    with pytest.raises(SourceMissingError, match=r"no such file; expected one of those there: .*/mails.jsonl; correct `path`"):
        open_source(SourceSection(path=path), base=tmp_path)


def test_an_ending_without_reader_is_refused_and_beside_readable_files_ignored(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about the data")
    for path in ("README.md", ".", "*.md"):
        with pytest.raises(FormatUnknownError, match=r"README.md: .*expected .jsonl, .csv, .parquet"):
            open_source(SourceSection(path=path), base=tmp_path)
    write_jsonl(tmp_path / "s.jsonl", {"text": ["x"]})
    assert len(open_source(SourceSection(path="."), base=tmp_path).parts()) == 1


def test_an_unknown_option_names_the_known(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "s.jsonl", {"text": ["x"]})
    with pytest.raises(ConfigError, match="unknown key 'delimiter'; expected one of: carry"):
        open_source(SourceSection(path="s.jsonl", options={"delimiter": ";"}), base=tmp_path)
    with pytest.raises(ConfigError, match="a list of column names"):
        open_source(SourceSection(path="s.jsonl", options={"carry": "part"}), base=tmp_path)


BAD_LINES = {
    b"{nope": "not JSON",
    b'["a", "list"]': "expected an object",
    b'{"other": "x"}': "no 'text'",
    b'{"text": null}': "no 'text'",
    b'{"text": 5}': "expected text",
    b'{"text": "\\ud800"}': "not UTF-8",
    b'{"text": "\xff"}': "not UTF-8",
    b'{"text": ' + b"[" * 100_000 + b"}": "not JSON",
    b'{"text": "x", "label": {"a": 1}}': "expected a name",
    b'{"text": ' + b"9" * 5000 + b"}": "not JSON",
    b'{"text": "' + b"x" * (MAX_ROW_BYTES + 1) + b'"}': "expected at most",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:24].decode("latin-1"))
def test_a_line_that_does_not_parse_is_one_problem_row_and_its_neighbours_are_read(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_bytes(b'{"text": "before", "label": "x"}\n\n' + line + b'\n  \n{"text": "after", "label": "y"}')
    before, bad, after = rows_of(open_source(SourceSection(path="s.jsonl", label="label"), base=tmp_path))
    assert BAD_LINES[line] in bad["problem"]
    assert bad["input"] is None
    assert bad["sample_id"].endswith(":1")
    assert (before["input"], after["input"]) == ("before", "after")
    assert before["problem"] is None
    assert after["problem"] is None


BAD_RECORDS = {b"1,2,3": "3 fields; the header has 2", b"only": "1 fields", b"\xff,x": "not UTF-8", b'"a"b,x': "not CSV"}


@pytest.mark.parametrize("record", BAD_RECORDS)
def test_a_csv_record_that_does_not_parse_is_one_problem_row(record: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(
        b"\xef\xbb\xbftext,label\r\nbefore,x\r\n" + record + b'\r\n\r\n"after, with ""quotes""\nand lines",y\r\n'
    )
    before, bad, after = rows_of(open_source(SourceSection(path="s.csv", label="label"), base=tmp_path))
    assert BAD_RECORDS[record] in bad["problem"]
    assert before["input"] == "before"
    assert after["input"] == 'after, with "quotes"\nand lines'


def test_an_unclosed_quote_does_not_pass_for_a_row(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(b'text,label\na,x\n"open,y\nb,z\n')
    good, bad = rows_of(open_source(SourceSection(path="s.csv"), base=tmp_path))
    assert good["input"] == "a"
    assert "not CSV" in bad["problem"]


BAD_NUMBERS = {
    "[]": "empty",
    "[1, null]": "NoneType",
    '[1, "2"]': "holds a str",
    "[1, NaN]": "nan",
    "[1, 1e999]": "beyond float32",
    "[1, " + "9" * 400 + "]": "beyond float32",
    "[true, 1]": "holds a bool",
    "3": "expected a list",
    "[[1], [2]]": "holds a list",
}


@pytest.mark.parametrize("written", BAD_NUMBERS, ids=lambda written: written[:16])
def test_numbers_that_are_none_are_one_problem_row(written: str, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"x": [1, 2]}\n{"x": ' + written + '}\n{"x": [3.5, 4]}\n')
    good, bad, last = rows_of(open_source(SourceSection(path="s.jsonl", input="x", kind="floats"), base=tmp_path))
    assert BAD_NUMBERS[written] in bad["problem"]
    assert (good["input"], last["input"]) == ([1.0, 2.0], [3.5, 4.0])


def test_null_rows_and_numbers_that_are_none_in_parquet_are_problem_rows(tmp_path: Path) -> None:
    values = [[1.0, 2.0], None, [3.0, float("nan")], [], [4.0, None], [5.0, 6.0]]
    pq.write_table(
        pa.table({"x": pa.array(values, pa.list_(pa.float64())), "who": ["a", "b", None, "d", "e", "f"]}), tmp_path / "s.parquet"
    )
    rows = rows_of(open_source(SourceSection(path="s.parquet", input="x", kind="floats", id="who"), base=tmp_path))
    assert [row["input"] for row in rows] == [[1.0, 2.0], None, None, None, None, [5.0, 6.0]]
    assert [row["problem"] is None for row in rows] == [True, False, False, False, False, True]
    assert rows[2]["problem"] == "no 'who'"
    assert rows[2]["sample_id"].endswith(":2")


def test_text_in_parquet_that_is_not_utf8_spoils_only_its_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([b"good", b"\xff\xfe", b"too"], pa.binary())}), tmp_path / "s.parquet")
    rows = rows_of(open_source(SourceSection(path="s.parquet"), base=tmp_path))
    assert [row["input"] for row in rows] == ["good", None, "too"]
    assert "not UTF-8" in rows[1]["problem"]


def test_categories_and_whole_numbers_serve_as_text_and_labels(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode(), "label": [3, None, 4]})
    pq.write_table(table, tmp_path / "s.parquet")
    rows = rows_of(open_source(SourceSection(path="s.parquet", label="label"), base=tmp_path))
    assert [(row["input"], row["label"]) for row in rows] == [("a", "3"), ("b", None), ("a", "4")]


def test_a_column_of_the_wrong_kind_is_refused_as_a_whole(tmp_path: Path) -> None:
    write_parquet(tmp_path / "s.parquet", {"text": [1, 2], "x": ["a", "b"]})
    for section, kind in ((SourceSection(path="s.parquet"), "text"), (SourceSection(path="s.parquet", input="x", kind="floats"), "a list")):
        source = open_source(section, base=tmp_path)
        with pytest.raises(ColumnTypeError, match=f"expected {kind}"):
            source.read(source.parts()[0].identity, [0])


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("keep", [0, 10, -20])
def test_a_truncated_file_is_named(ending: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / f"s{ending}"
    WRITERS[ending](path, {"text": ["a", "b", "c"] * 50})
    path.write_bytes(path.read_bytes()[:keep])
    source = open_source(SourceSection(path=path.name), base=tmp_path)
    with pytest.raises(PartUnreadableError, match=f"{path.name}: .*write it again"):
        source.parts()


def test_carried_columns_follow_the_four_of_every_source(tmp_path: Path) -> None:
    for ending, write in WRITERS.items():
        write(tmp_path / f"s{ending}", {"text": ["a", "b"], "part": ["fit", "gate"]})
        source = open_source(SourceSection(path=f"s{ending}", options={"carry": ["part"]}), base=tmp_path)
        assert [(row["input"], row["part"]) for row in rows_of(source)] == [("a", "fit"), ("b", "gate")]


def test_rows_a_part_never_had_are_an_error_of_the_caller(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "s.jsonl", {"text": ["a"]})
    source = open_source(SourceSection(path="s.jsonl"), base=tmp_path)
    for row in (-1, 1):
        with pytest.raises(IndexError):
            source.read(source.parts()[0].identity, [row])


def test_a_spec_survives_the_way_to_another_process(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "s.jsonl", {"text": ["a"]})
    spec = SourceSpec(section=SourceSection(path="s.jsonl"), base=tmp_path)
    sent = pickle.loads(pickle.dumps(spec))
    assert sent.open().parts() == spec.open().parts()


def test_errors_of_a_source_survive_the_way_from_an_actor() -> None:
    errors = [
        SourceMissingError("p", ["a"]),
        FormatUnknownError("p", [".x"]),
        ColumnMissingError("p", "c", ["a"]),
        ColumnTypeError("p", "c", "int64", "text"),
        PartUnreadableError("p", "r"),
        PartChangedError("p", "a", "b"),
    ]
    for error in errors:
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        assert error.exit_code == 3


def test_any_line_of_a_long_file_is_found(tmp_path: Path) -> None:
    with (tmp_path / "s.jsonl").open("w") as file:
        for number in range(20_000):
            file.write(json.dumps({"text": f"row {number}"}) + "\n")
    source = open_source(SourceSection(path="s.jsonl"), base=tmp_path)
    (part,) = source.parts()
    assert source.read(part.identity, [19_999, 7]).column("input").to_pylist() == ["row 19999", "row 7"]


def labelled_texts(source: Any, plans: Any) -> list[str]:
    """The text behind each planned row, in the order of the row space."""
    found: list[str] = []
    for plan in plans:
        rows = part_rows(plan, np.arange(plan.first, plan.first + plan.rows))
        found += source.read(plan.part, rows).column("input").to_pylist()
    return found


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
@settings(max_examples=40, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.sampled_from(["append", "replace"]), st.integers(0, 2), st.lists(TEXTS, min_size=1, max_size=4)),
        max_size=8,
    )
)
def test_whatever_happens_to_the_files_no_row_of_an_unchanged_beginning_is_planned_twice(
    ending: str, turns: list[tuple[str, int, list[str]]], tmp_path_factory: Any
) -> None:
    base = tmp_path_factory.mktemp("grows")
    (base / "in").mkdir()
    log = LogWriter.open(MemoryStore(), holder="h", classes=("a", "b"), nonce="n", now_unix_s=0)
    content: dict[str, list[str]] = {}
    expected: list[str] = []
    for number, (what, which, added) in enumerate(turns):
        name = f"part-{which}{ending}"
        texts = [f"{number} {text}" for text in added]
        fresh = what == "replace" or name not in content
        content[name] = texts if fresh else content[name] + texts
        WRITERS[ending](base / "in" / name, {"text": content[name]})
        expected += texts
        source = open_source(SourceSection(path="in"), base=base)
        assert isinstance(source, GrowingSource)
        parts = source.parts()
        there, names = {part.identity for part in parts}, {part.name for part in parts}
        gone = {plan.part for plan in log.state.plans if plan.part not in there and plan.name in names}
        grown = {old: now for old in gone if (now := source.grown_from(old))}
        change = source_change(log.state, ((p.identity, p.name, p.rows) for p in parts), unit_rows=2, generation=1, grown=grown)
        log.queue(change.entries)
        state = log.flush(now_unix_s=0)
        assert not change.vanished
        readable = [plan for plan in state.plans if plan.part in there or plan.part in grown]
        assert sorted(labelled_texts(source, readable)) == sorted(text for kept in content.values() for text in kept)
    assert log.state.rows_planned == len(expected)


def test_a_line_that_was_not_finished_makes_another_file_of_what_is_appended_to_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "tw"}')
    (before,) = open_source(SourceSection(path="a.jsonl"), base=tmp_path).parts()
    path.write_text('{"text": "one"}\n{"text": "tw"}o\n')
    source = open_source(SourceSection(path="a.jsonl"), base=tmp_path)
    source.parts()
    assert isinstance(source, GrowingSource)
    assert source.grown_from(before.identity) is None
    with pytest.raises(PartChangedError):
        source.read(before.identity, [0])


def test_a_quoted_field_that_went_on_is_no_unchanged_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text\none\n"two\n')
    (before,) = open_source(SourceSection(path="a.csv"), base=tmp_path).parts()
    path.write_text('text\none\n"two\nand more"\n')
    source = open_source(SourceSection(path="a.csv"), base=tmp_path)
    source.parts()
    assert isinstance(source, GrowingSource)
    assert source.grown_from(before.identity) is None


def test_a_folder_that_datasets_wrote_is_read_with_its_class_names(tmp_path: Path) -> None:
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["ham", "spam"], "_type": "ClassLabel"}}
    schema = pa.schema(
        [("text", pa.string()), ("label", pa.int64())], metadata={"huggingface": json.dumps({"info": {"features": features}})}
    )
    table = pa.table({"text": ["one", "two", "three"], "label": [1, 0, -1]}, schema=schema)
    folder = tmp_path / "saved"
    folder.mkdir()
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        stream.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    rows = rows_of(open_source(SourceSection(path="saved", label="label"), base=tmp_path))
    assert [(row["input"], row["label"]) for row in rows] == [("one", "spam"), ("two", "ham"), ("three", None)]
    pq.write_table(table, tmp_path / "train.parquet")
    rows = rows_of(open_source(SourceSection(path="train.parquet", label="label"), base=tmp_path))
    assert [row["label"] for row in rows] == ["spam", "ham", None]


def test_a_stream_that_ends_too_soon_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"\xff\xff\xff\xff\x10")
    with pytest.raises(PartUnreadableError, match="not an Arrow IPC file"):
        open_source(SourceSection(path="a.arrow"), base=tmp_path).parts()
