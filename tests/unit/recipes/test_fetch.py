"""Fetching a package with an npm of our own making: once, checked, and never half."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest

from workers import fetch as fetch_module
from workers.fetch import ChecksumError, FetchFailedError, NpmMissingError, cache_folder, fetch

CONTENT = b"the package"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GOOD = 'printf "the package" > "$4/some-thing-1.0.0.tgz"'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin:/bin")
    return tmp_path / "cache"


def npm(tmp_path: Path, script: str) -> None:
    (tmp_path / "bin").mkdir(exist_ok=True)
    path = tmp_path / "bin" / "npm"
    path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
    path.chmod(0o755)


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "packages").iterdir())


def test_a_package_is_fetched_once_by_exact_version_and_runs_no_script(tmp_path: Path, cache: Path) -> None:
    npm(tmp_path, GOOD)
    path = fetch("@some/thing", "1.0.0", SHA256)
    assert path.read_bytes() == CONTENT
    assert fetch("@some/thing", "1.0.0", SHA256) == path
    (call,) = calls(tmp_path)
    assert call.startswith("pack @some/thing@1.0.0 ")
    assert "--ignore-scripts" in call
    assert left(cache) == ["some-thing-1.0.0.tgz"]
    assert cache.stat().st_mode & 0o077 == 0


def test_what_is_in_the_cache_needs_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm(tmp_path, GOOD)
    path = fetch("@some/thing", "1.0.0", SHA256)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert fetch("@some/thing", "1.0.0", SHA256) == path
    with pytest.raises(NpmMissingError, match=r"npm: not found .*apt-get install -y npm"):
        fetch("@some/thing", "2.0.0", SHA256)


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    npm(tmp_path, GOOD)
    path = fetch("@some/thing", "1.0.0", SHA256)
    path.write_bytes(b"flipped")
    assert fetch("@some/thing", "1.0.0", SHA256).read_bytes() == CONTENT
    assert len(calls(tmp_path)) == 2


def test_another_file_under_the_same_version_is_refused_and_not_kept(tmp_path: Path, cache: Path) -> None:
    npm(tmp_path, 'printf "swapped" > "$4/some-thing-1.0.0.tgz"')
    with pytest.raises(ChecksumError, match=f"expected {SHA256}; nothing was kept"):
        fetch("@some/thing", "1.0.0", SHA256)
    assert left(cache) == []


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo no network >&2; exit 1", "npm ended with 1 and said: no network"),
        ("exit 0", "npm left no archive"),
        ('printf a > "$4/a.tgz"; printf b > "$4/b.tgz"', r"npm left .*a.tgz"),
        ('printf "far too large" > "$4/a.tgz"', "where one of at most 12 bytes was due"),
        ("exec sleep 60", "npm was not done after 1 s"),
    ],
)
def test_an_npm_that_fails_is_quoted_and_leaves_nothing(
    script: str, says: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "MAX_PACKAGE_BYTES", 12)
    monkeypatch.setattr(fetch_module, "TIMEOUT_S", 1.0)
    npm(tmp_path, script)
    with pytest.raises(FetchFailedError, match=says) as caught:
        fetch("@some/thing", "1.0.0", SHA256)
    assert caught.value.exit_code == 10
    assert left(cache) == []


def test_the_cache_is_in_the_home_unless_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDPIPE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "kdpipe"


def test_errors_survive_pickling() -> None:
    for error in (NpmMissingError("p"), FetchFailedError("p", "f"), ChecksumError("p", "a", "b")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
