"""The lineage: append-only, torn tails cut off, broken middles told."""

import os
from pathlib import Path

import pytest

from pipeline.releases.lineage import Lineage, LineageCorruptError, LineageEntry
from tests.kit.kill_switch import KillSwitch


def entry(generation: int = 1, **changes: object) -> LineageEntry:
    fields = {
        "what": "judged", "student": "small", "generation": generation, "parent": None, "teacher": "t", "digest": "a" * 64,
        "passed": True, "at_unix_s": 1, **changes,
    }  # fmt: skip
    return LineageEntry(**fields)  # type: ignore[arg-type]


def test_uses_of_the_gate_part_are_counted_by_student(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path / "lineage.jsonl")
    for generation in (1, 2, 3):
        assert lineage.append(entry(generation))
    lineage.append(entry(student="other"))
    lineage.append(entry(2, what="released", release=1, target="releases/small-000001.kdpb"))
    assert lineage.gate_uses("small") == 3
    assert Lineage(tmp_path / "none").gate_uses("small") == 0


def test_the_same_fact_is_written_once(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path / "lineage.jsonl")
    assert lineage.append(entry())
    assert not lineage.append(entry(at_unix_s=99))
    assert lineage.gate_uses("small") == 1


def test_a_torn_last_line_is_cut_off_and_a_broken_one_before_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lineage.jsonl"
    lineage = Lineage(path)
    lineage.append(entry(1))
    lineage.append(entry(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert lineage.gate_uses("small") == 1
    lineage.append(entry(2))
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'"version":1', b'"version":9', 1))
    with pytest.raises(LineageCorruptError, match="line 1"):
        lineage.entries()


def test_appending_killed_at_any_step_loses_no_older_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for step in range(1, 30):
        lineage = Lineage(tmp_path / f"{step}.jsonl")
        lineage.append(entry(1))
        with KillSwitch(step) as switch:
            lineage.append(entry(2))
        lineage.append(entry(2))
        assert [e.generation for e in lineage.entries()] == [1, 2]
        if not switch.fired:
            return
    raise AssertionError("never ran through")
