"""Groups of nearly equal texts, against the similarity computed in full."""

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.recipes.near_duplicates import SHINGLE_WORDS, cluster_near_duplicates

WORDS = np.array([f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvxz"])


def text(seed: int, count: int = 80) -> list[str]:
    return np.random.default_rng(seed).choice(WORDS, count).tolist()


def similarity(left: str, right: str) -> float:
    def shingles(whole: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z]+", whole.lower())
        return {tuple(words[place : place + SHINGLE_WORDS]) for place in range(len(words) - SHINGLE_WORDS + 1)}

    one, other = shingles(left), shingles(right)
    return len(one & other) / len(one | other)


def test_texts_that_differ_in_names_and_numbers_are_one_group() -> None:
    words = text(1)
    variants = [" ".join([*words[:40], f"Dear{name}", *words[40:], str(name)]) for name in range(5)]
    assert cluster_near_duplicates(["Something Else entirely here " + " ".join(text(9)), *variants]).tolist() == [0, 1, 1, 1, 1, 1]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), changed=st.integers(0, 30))
def test_a_pair_is_joined_when_it_is_clearly_similar_and_apart_when_it_clearly_is_not(seed: int, changed: int) -> None:
    words = text(seed)
    other = list(words)
    for place in np.random.default_rng(seed + 1).choice(len(words), changed, replace=False):
        other[place] = "changed"
    pair = [" ".join(words), " ".join(other)]
    found = cluster_near_duplicates(pair).tolist() == [0, 0]
    true = similarity(*pair)
    if true > 0.75:
        assert found
    if true < 0.25:
        assert not found


def test_groups_are_closed_and_named_by_their_first_text() -> None:
    words = text(3, 120)
    chain = [" ".join([*(["x"] * step), *words[step:]]) for step in (0, 12, 24, 36, 48)]
    others = [" ".join(text(seed)) for seed in range(20, 24)]
    clusters = cluster_near_duplicates([*chain, *others])
    assert clusters[:5].tolist() == [0] * 5
    assert clusters[5:].tolist() == [5, 6, 7, 8]


def test_texts_without_words_or_very_short_ones_are_grouped_only_when_equal() -> None:
    assert cluster_near_duplicates(["", "1 2 3", "1 2 4", "", "one", "one two", "one"]).tolist() == [0, 1, 2, 0, 4, 5, 4]
    assert cluster_near_duplicates([]).tolist() == []


def test_the_answer_does_not_depend_on_the_process() -> None:
    texts = [" ".join(text(seed, 30)) for seed in range(30)]
    assert cluster_near_duplicates(texts).tolist() == list(range(30))
