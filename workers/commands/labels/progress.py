"""A bar for verbs that take a while: on standard error, so that what a script reads stays clean."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def bar(directory: Path, name: str) -> Iterator[Callable[[int, int], None]]:
    """A call with (rows done, rows) moves it; without a terminal it is a plain line now and then."""
    from workers.driver.folder import RunFolder
    from workers.driver.reporter import Gauge, Reporter

    with Reporter(RunFolder(directory), stream=sys.stderr, writes_status=False) as reporter:
        yield lambda done, rows: reporter.show([Gauge(name=name, done=done, total=rows, says="rows")])
