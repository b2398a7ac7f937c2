"""Splits of the spam corpus: nothing leaks, the same seed gives the same, feeds come from where they should."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.recipes.spam import Sizes, Split, split, tables

SIZES = Sizes(labelled=60, fit=10, choose=12, gate=20, test=40, first_feed_share=0.5, feeds=3)


def corpus(seed: int, rows: int = 300) -> Any:
    generator = np.random.default_rng(seed)
    first_of_group = np.maximum.accumulate(np.where(generator.random(rows) < 0.7, np.arange(rows), 0))
    groups = generator.choice(["easy-ham-1", "easy-ham-2", "spam-1", "spam-2"], rows)
    return pa.table(
        {
            "mail": [f"{group}/{row}" for row, group in enumerate(groups)],
            "group": groups.tolist(),
            "label": ["spam" if group.startswith("spam") else "ham" for group in groups],
            "text": [f"text {row}" for row in range(rows)],
            "cluster": pa.array(first_of_group, pa.int32()),
        }
    )


def parts(made: Split) -> dict[str, list[int]]:
    stream = np.concatenate(made.feeds)
    return {
        name: rows.tolist() for name, rows in {"labelled": made.labelled, "test": made.test, "stream": stream, **made.validation}.items()
    }


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), data_seed=st.integers(0, 50))
def test_every_mail_is_dealt_once_and_near_duplicates_stay_together(seed: int, data_seed: int) -> None:
    table = corpus(data_seed)
    dealt = parts(split(table, seed=seed, sizes=SIZES))
    assert sorted(row for rows in dealt.values() for row in rows) == list(range(table.num_rows))
    clusters = table.column("cluster").to_numpy()
    homes: dict[int, set[str]] = {}
    for name, rows in dealt.items():
        for row in rows:
            homes.setdefault(int(clusters[row]), set()).add(name)
    assert all(len(names) == 1 for names in homes.values())
    for name, size in (("labelled", 60), ("fit", 10), ("choose", 12), ("gate", 20), ("test", 40)):
        assert len(dealt[name]) <= size


def test_the_parts_are_full_where_single_mails_can_fill_them() -> None:
    dealt = parts(split(corpus(1), seed=1, sizes=SIZES))
    assert {name: len(rows) for name, rows in dealt.items() if name != "stream"} == {
        "labelled": 60,
        "fit": 10,
        "choose": 12,
        "gate": 20,
        "test": 40,
    }


def test_a_seed_gives_the_same_split_and_another_seed_another() -> None:
    table = corpus(2)
    assert parts(split(table, seed=5, sizes=SIZES)) == parts(split(table, seed=5, sizes=SIZES))
    assert parts(split(table, seed=5, sizes=SIZES)) != parts(split(table, seed=6, sizes=SIZES))


def test_later_feeds_hold_newer_mails_only_and_the_first_its_share_of_them() -> None:
    table = corpus(3)
    made = split(table, seed=1, sizes=SIZES)
    groups = np.array(table.column("group").to_pylist())
    newer = [int(np.char.endswith(groups[feed], "-2").sum()) for feed in made.feeds]
    assert newer[1:] == [len(feed) for feed in made.feeds[1:]]
    assert abs(newer[0] - sum(newer) / 2) <= 1
    assert len(made.feeds[0]) > newer[0]


def test_another_share_changes_the_feeds_alone() -> None:
    table = corpus(4)
    half = split(table, seed=1, sizes=SIZES)
    all_of_it = split(table, seed=1, sizes=Sizes(**{**SIZES.__dict__, "first_feed_share": 1.0}))
    assert half.labelled.tolist() == all_of_it.labelled.tolist()
    assert [len(feed) for feed in all_of_it.feeds[1:]] == [0, 0]


def test_one_feed_holds_all_of_the_stream() -> None:
    made = split(corpus(5), seed=1, sizes=Sizes(**{**SIZES.__dict__, "feeds": 1, "first_feed_share": 1.0}))
    assert len(made.feeds) == 1


def test_the_stream_carries_no_label_and_validation_its_part() -> None:
    files = tables(corpus(6), split(corpus(6), seed=1, sizes=SIZES))
    assert {name: content.column_names for name, content in files.items()} == {
        "data/labelled.parquet": ["mail", "text", "label"],
        "data/validation.parquet": ["mail", "text", "label", "part"],
        "data/test.parquet": ["mail", "text", "label"],
        "feeds/feed-1.parquet": ["mail", "text"],
        "feeds/feed-2.parquet": ["mail", "text"],
        "feeds/feed-3.parquet": ["mail", "text"],
    }
    assert files["data/validation.parquet"].column("part").value_counts().to_pylist() == [
        {"values": "fit", "counts": 10},
        {"values": "choose", "counts": 12},
        {"values": "gate", "counts": 20},
    ]
