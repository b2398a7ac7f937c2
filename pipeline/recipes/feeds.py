"""The parts of a recipe's stream, and their release, one after the other, into the watched folder `inbox/`.

A release is one hard link (or one copy, linked into place, where the file system has none): the source sees the whole file or none.
"""

import errno
import os
from pathlib import Path

from pipeline.errors import DataError
from pipeline.files import create_exclusive, read_bounded, sync_folder

FEEDS, INBOX = "feeds", "inbox"
MAX_FEED_BYTES = 2**30


class FeedMissingError(DataError):
    """A feed number that the recipe did not make."""

    def __init__(self, folder: str, number: int, there: tuple[str, ...]) -> None:
        super().__init__(folder, number, there)
        self.folder, self.number, self.there = folder, number, there

    def __str__(self) -> str:
        if not self.there:
            return (
                f"{self.folder}: no feed {self.number}, nor any other; expected the folder of a recipe's run that has prepared its data; "
                "`kdpipe run spam` makes one"
            )
        return f"{self.folder}: no feed {self.number}; expected one of: {', '.join(self.there)}; `kdpipe feed DIR N` releases one"


class NoFeedsError(DataError):
    """A run whose samples no recipe cuts into feeds: they come where its run file says."""

    def __init__(self, folder: str, stream: str) -> None:
        super().__init__(folder, stream)
        self.folder, self.stream = folder, stream

    def __str__(self) -> str:
        return (
            f"{self.folder}: its run file makes no feeds; expected a recipe's run that does, like digits; new samples of this run go to "
            f"{self.stream}, and `kdpipe run --continuous` finds them there by itself"
        )


class FeedReleasedError(DataError):
    """A feed that is in the inbox already."""

    def __init__(self, folder: str, number: int, waiting: tuple[str, ...]) -> None:
        super().__init__(folder, number, waiting)
        self.folder, self.number, self.waiting = folder, number, waiting

    def __str__(self) -> str:
        if not self.waiting:
            return (
                f"{self.folder}: feed {self.number} is in the inbox already, and so are all others; expected one that is not; "
                "a new file in the inbox is new samples, too"
            )
        return (
            f"{self.folder}: feed {self.number} is in the inbox already; expected one of: {', '.join(self.waiting)}; "
            f"`kdpipe feed DIR {self.waiting[0]}` releases the next"
        )


def release_feed(folder: Path, number: int) -> Path:
    """Put feed `number` of `folder` into its inbox and return where it is. Raises FeedMissingError, FeedReleasedError."""
    feed = folder / FEEDS / f"feed-{number}.parquet"
    if not feed.is_file():
        raise FeedMissingError(str(folder), number, _numbers(folder / FEEDS))
    inbox = folder / INBOX
    inbox.mkdir(parents=True, exist_ok=True)
    target = inbox / feed.name
    if not _link(feed, target):
        released = set(_numbers(inbox))
        raise FeedReleasedError(str(folder), number, tuple(name for name in _numbers(folder / FEEDS) if name not in released))
    sync_folder(inbox)
    return target


def _link(feed: Path, target: Path) -> bool:
    try:
        os.link(feed, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        return create_exclusive(target, read_bounded(feed, MAX_FEED_BYTES))
    return True


def _numbers(folder: Path) -> tuple[str, ...]:
    names = (path.stem.removeprefix("feed-") for path in folder.glob("feed-*.parquet"))
    return tuple(sorted((name for name in names if name.isdecimal()), key=int))
