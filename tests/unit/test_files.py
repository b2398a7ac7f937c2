"""Files survive a process that dies at any instruction: the old bytes, the new bytes or nothing, never a mix."""

import itertools
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.files import FileTooLargeError, create_exclusive, make_private_folder, read_bounded, write_atomic

OLD, NEW = b"old" * 1000, b"new" * 2000
KILLED = 99
WRITERS = {"write_atomic": write_atomic, "create_exclusive": create_exclusive}


def die_at_every_call(writer: str, folder: Path) -> None:
    """Write again and again, each time in a process that dies one built-in call later, until one lives. Prints what each left."""
    path = folder / "file"
    for calls in itertools.count(1):
        for leftover in folder.iterdir():
            leftover.unlink()
        if writer == "write_atomic":
            path.write_bytes(OLD)
        child = os.fork()
        if child == 0:
            _die_after(calls)
            WRITERS[writer](path, NEW)
            sys.setprofile(None)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = path.read_bytes() if path.exists() else b""
        left = {b"": "nothing", OLD: "old", NEW: "new"}.get(found, "a mix")
        strangers = [name.name for name in folder.iterdir() if name != path and not name.name.startswith(".tmp-")]
        print(code, left, *strangers)
        if code == 0:
            return


def _die_after(calls: int) -> None:
    left = iter(range(calls, 0, -1))

    def count(frame: Any, event: str, argument: Any) -> None:
        if event == "c_call" and next(left, None) is None:
            os._exit(KILLED)

    sys.setprofile(count)


@pytest.mark.parametrize(("writer", "before"), [("write_atomic", "old"), ("create_exclusive", "nothing")])
def test_a_writer_killed_at_any_call_leaves_the_old_or_the_new(tmp_path: Path, writer: str, before: str):
    program = f"die_at_every_call({writer!r}, Path({str(tmp_path)!r}))"
    command = [sys.executable, "-c", f"from tests.unit.test_files import Path, die_at_every_call; {program}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    deaths = [line.split() for line in done.stdout.splitlines()]
    assert deaths[-1] == ["0", "new"]
    assert {code for code, *_ in deaths[:-1]} == {str(KILLED)}
    left = [what for _, what in deaths]
    assert len(left) > 10, "the writer was killed at too few places to say anything"
    assert left == sorted(left, key=[before, "new"].index), "once new, never old again; and never a mix or another file"


@given(data=st.binary(max_size=300), before=st.none() | st.binary(max_size=300))
def test_what_was_written_is_what_is_read_and_nothing_else_stays(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, before: bytes | None
):
    path = tmp_path_factory.mktemp("files") / "file"
    if before is not None:
        write_atomic(path, before)
    write_atomic(path, data)
    assert read_bounded(path, 300) == data
    assert list(path.parent.iterdir()) == [path]


def test_of_many_that_create_at_once_exactly_one_wins_and_its_bytes_stay(tmp_path: Path):
    path, start = tmp_path / "file", threading.Barrier(8)
    won: list[int] = []

    def create(number: int) -> None:
        start.wait(timeout=10)
        if create_exclusive(path, b"%d" % number * 10_000):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(won) == 1
    assert path.read_bytes() == b"%d" % won[0] * 10_000
    assert list(tmp_path.iterdir()) == [path]


def test_creating_what_exists_changes_nothing(tmp_path: Path):
    assert create_exclusive(tmp_path / "file", OLD)
    assert not create_exclusive(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == OLD


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Any):
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writer(path, NEW)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_private_file_is_never_readable_by_others_not_even_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Any):
    modes: list[int] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        modes.append(os.fstat(descriptor).st_mode)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    writer(tmp_path / "key", b"secret")
    files = [*modes, (tmp_path / "key").stat().st_mode]
    assert {stat.S_IMODE(mode) for mode in files if stat.S_ISREG(mode)} == {0o600}


@given(size=st.integers(0, 200), limit=st.integers(0, 200))
def test_a_read_never_holds_more_than_it_was_allowed(tmp_path_factory: pytest.TempPathFactory, size: int, limit: int):
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(b"x" * size)
    if size <= limit:
        assert read_bounded(path, limit) == b"x" * size
        return
    with pytest.raises(FileTooLargeError, match=f"{size} bytes; expected at most {limit}"):
        read_bounded(path, limit)


def test_reading_what_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "file", 1)


def test_a_private_folder_is_closed_to_others_even_if_it_was_open(tmp_path: Path):
    open_folder = tmp_path / "keys"
    open_folder.mkdir(mode=0o755)
    assert stat.S_IMODE(make_private_folder(open_folder).stat().st_mode) == 0o700
    assert stat.S_IMODE(make_private_folder(tmp_path / "a" / "b").stat().st_mode) == 0o700


def synced(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Inodes that are fsynced from here on."""
    found, fsync = set[int](), os.fsync

    def look(descriptor: int) -> None:
        found.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    return found


def test_a_new_folder_is_durable_in_each_parent_and_one_that_is_there_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = synced(monkeypatch)
    make_private_folder(tmp_path / "a" / "b" / "c")
    assert found == {folder.stat().st_ino for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")}
    found.clear()
    make_private_folder(tmp_path / "a" / "b" / "c")
    assert not found
