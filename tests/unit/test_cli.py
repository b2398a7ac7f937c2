"""What the operating system refuses is one line and exit code 10; what is nobody's fault but ours keeps its trace."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from workers import cli


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["kdpipe", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert isinstance(ended.value.code, int)
    return ended.value.code, line


@pytest.mark.parametrize("place", ["a file", "beneath a file", "/proc/nope"])
@pytest.mark.parametrize("verb", ["run", "init"])
def test_a_place_where_nothing_can_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str, place: str
) -> None:
    (tmp_path / "afile").write_text("mine")
    there = {"a file": str(tmp_path / "afile"), "beneath a file": str(tmp_path / "afile" / "x")}.get(place, place)
    words = ("run", "digits", "--dir", there) if verb == "run" else ("init", "spam", there)
    code, line = told(capsys, monkeypatch, *words)
    assert code == 10
    assert there in line
    assert "; expected " in line
    assert (tmp_path / "afile").read_text() == "mine"


def raising(error: OSError) -> Callable[[], None]:
    def app() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "free some of the disk"), (errno.EACCES, "this user"), (errno.EROFS, "this user"), (errno.EIO, "dmesg")],
)
def test_a_refused_write_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    monkeypatch.setattr(cli, "app", raising(OSError(number, os.strerror(number), "/run/status.json")))
    code, line = told(capsys, monkeypatch)
    assert code == 10
    assert line.startswith(f"kdpipe: /run/status.json: {os.strerror(number)}; expected ")
    assert says in line


def test_an_error_that_is_about_no_file_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["kdpipe"])
    monkeypatch.setattr(cli, "app", raising(ConnectionRefusedError(errno.ECONNREFUSED, "refused")))
    with pytest.raises(ConnectionRefusedError):
        cli.main()
