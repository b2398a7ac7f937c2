"""Releasing the parts of a stream into the watched folder."""

import errno
import os
import pickle
from pathlib import Path

import pytest

from pipeline.recipes import FeedMissingError, FeedReleasedError, NoFeedsError, release_feed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "feeds").mkdir()
    for number in (1, 2, 10):
        (tmp_path / "feeds" / f"feed-{number}.parquet").write_bytes(b"feed %d" % number)
    return tmp_path


def test_a_feed_appears_whole_and_the_original_stays(folder: Path) -> None:
    target = release_feed(folder, 2)
    assert target == folder / "inbox" / "feed-2.parquet"
    assert target.read_bytes() == b"feed 2"
    assert list((folder / "inbox").iterdir()) == [target]
    assert (folder / "feeds" / "feed-2.parquet").exists()


def test_a_number_that_is_not_there_names_those_that_are(folder: Path) -> None:
    with pytest.raises(FeedMissingError, match="no feed 3; expected one of: 1, 2, 10; `kdpipe feed DIR N`"):
        release_feed(folder, 3)
    with pytest.raises(FeedMissingError, match=r"expected the folder of a recipe's run"):
        release_feed(folder / "elsewhere", 1)


def test_a_second_release_says_what_is_left(folder: Path) -> None:
    release_feed(folder, 2)
    with pytest.raises(FeedReleasedError, match="feed 2 is in the inbox already; expected one of: 1, 10; `kdpipe feed DIR 1`"):
        release_feed(folder, 2)
    release_feed(folder, 1)
    release_feed(folder, 10)
    with pytest.raises(FeedReleasedError, match="and so are all others"):
        release_feed(folder, 10)


@pytest.mark.parametrize("refusal", [errno.EXDEV, errno.EPERM])
def test_without_hard_links_between_the_folders_the_feed_is_copied(refusal: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(refusal, "no links here")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    assert release_feed(folder, 1).read_bytes() == b"feed 1"
    with pytest.raises(FeedReleasedError):
        release_feed(folder, 1)


def test_errors_survive_pickling() -> None:
    for error in (FeedMissingError("d", 3, ("1",)), NoFeedsError("d", "s.jsonl"), FeedReleasedError("d", 3, ("1",))):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
