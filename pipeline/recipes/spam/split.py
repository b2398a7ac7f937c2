"""Splits of the corpus by seed. Near-duplicates stay on one side; the same seed gives the same split on any machine.

The stream keeps no label. Its first feed has every `*-1` mail and part of the `*-2` ones; the feeds after it come from `*-2`
alone, where half is spam instead of a sixth: a natural drift.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Rows per part; what is left is the stream."""

    labelled: int = 1000
    fit: int = 150
    choose: int = 200
    gate: int = 350
    test: int = 600
    first_feed_share: float = 0.5
    """Share of the stream's `*-2` mails that feed 1 has beside all of `*-1`."""
    feeds: int = 3


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row numbers of the corpus, disjoint."""

    labelled: Rows
    validation: Mapping[str, Rows]
    """By part: fit (temperature, calibration samples), choose (T, weights, policies), gate."""
    test: Rows
    feeds: tuple[Rows, ...]


def split(table: Any, *, seed: int, sizes: Sizes = Sizes()) -> Split:
    """Deal whole groups of near-duplicates, in an order drawn from `seed`, to the parts until each is full."""
    generator = np.random.Generator(np.random.Philox(seed))
    clusters = table.column("cluster").to_numpy()
    wanted = {"labelled": sizes.labelled, "test": sizes.test, "gate": sizes.gate, "choose": sizes.choose, "fit": sizes.fit}
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    groups = np.split(order, starts[1:])
    dealt: dict[str, list[Rows]] = {name: [] for name in (*wanted, "stream")}
    left = dict(wanted)
    for place in generator.permutation(len(groups)):
        group = groups[place]
        part = next((name for name, rows in left.items() if len(group) <= rows), "stream")
        dealt[part].append(group)
        if part in left:
            left[part] -= len(group)
    rows = {name: generator.permutation(np.concatenate(taken)) if taken else np.empty(0, np.int64) for name, taken in dealt.items()}
    return Split(
        labelled=rows["labelled"],
        validation={name: rows[name] for name in ("fit", "choose", "gate")},
        test=rows["test"],
        feeds=_feeds(table, rows["stream"], sizes),
    )


def _feeds(table: Any, stream: Rows, sizes: Sizes) -> tuple[Rows, ...]:
    second = np.array([group.endswith("-2") for group in table.column("group").to_pylist()])[stream]
    later = stream[second]
    first_count = round(len(later) * sizes.first_feed_share)
    taken = np.isin(stream, later[:first_count])
    rest = np.array_split(later[first_count:], sizes.feeds - 1) if sizes.feeds > 1 else []
    return (stream[~second | taken], *rest)


def tables(table: Any, made: Split) -> dict[str, Any]:
    """The files of a split by name. Only `labelled`, `validation` and `test` have labels."""
    columns = ["mail", "text", "label"]
    validation = pa.concat_tables(
        [
            table.take(pa.array(rows)).select(columns).append_column("part", pa.array([part] * len(rows), pa.string()))
            for part, rows in made.validation.items()
        ]
    )
    files = {
        "data/labelled.parquet": table.take(pa.array(made.labelled)).select(columns),
        "data/validation.parquet": validation,
        "data/test.parquet": table.take(pa.array(made.test)).select(columns),
    }
    for number, rows in enumerate(made.feeds, start=1):
        files[f"feeds/feed-{number}.parquet"] = table.take(pa.array(rows)).select(["mail", "text"])
    return files
