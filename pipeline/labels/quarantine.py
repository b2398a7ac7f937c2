"""Which rows are quarantined now, and why; which of them to ask for again. Pure.

The log's quarantines are facts and stay. A row may be quarantined, retried, and quarantined again: the newest reason counts.
"""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from pipeline.labels.entries import Quarantine
from pipeline.labels.state import LogState

SUPERSEDED = "its file changed before it was labelled"

_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|0x[0-9a-fA-F]+|\d+")
"""What differs between rows that fail alike: quoted words, addresses, numbers."""


def in_force(state: LogState) -> Iterator[Quarantine]:
    """The quarantines of rows that have no label and are no work, in the order of the log. A fact may come in pieces."""
    facts = list(state.quarantined)
    edges = np.unique([edge for rows in facts for edge in (rows.start, rows.stop)]).astype(np.int64)
    newest = np.full(max(len(edges) - 1, 0), -1)
    for number, rows in enumerate(facts):
        first, stop = np.searchsorted(edges, (rows.start, rows.stop))
        newest[first:stop] = number
    for place in np.argsort(newest, kind="stable").tolist():
        if newest[place] >= 0:
            for start, stop in state.set_aside.within(int(edges[place]), int(edges[place + 1])):
                yield Quarantine(start=start, stop=stop, reason=facts[newest[place]].reason)


def kinds(state: LogState) -> list[tuple[str, int]]:
    """Reasons and their rows, most first. Those that differ in quoted words and numbers alone count as one, named by the first."""
    example: dict[str, str] = {}
    rows: Counter[str] = Counter()
    for quarantine in in_force(state):
        kind = _PARTICULAR.sub("*", quarantine.reason)
        example.setdefault(kind, quarantine.reason)
        rows[kind] += quarantine.stop - quarantine.start
    return [(example[kind], count) for kind, count in rows.most_common()]
