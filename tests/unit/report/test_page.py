"""The page: whole, safe whatever names are in it, and plain about what is not there."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline.labels.spread import Histogram
from pipeline.report.facts import RunFacts
from pipeline.report.headline import headline, tiles
from pipeline.report.markup import ends_of
from pipeline.report.page import page
from pipeline.report.verdicts import SHOWN
from tests.kit.reports import ATTACK, DIGITS, finished, hostile, spread_of, unfinished

VOID = {"meta", "br", "img"}


class Seen(HTMLParser):
    """Elements, attributes and text of a page; fails where an element is not closed by its own end."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words.append(data)


RUNS = {
    "finished": finished(),
    "unfinished": unfinished(),
    "no control": finished(control=False),
    "no labels": finished(hard=False, control=False, classes=("ham", "spam")),
    "many classes": finished(classes=[f"class {number}" for number in range(120)]),
    "hostile": hostile(),
}


@pytest.mark.parametrize("facts", RUNS.values(), ids=RUNS.keys())
def test_it_is_well_formed_and_names_nothing_beyond_itself(facts: RunFacts) -> None:
    text = page(facts)
    seen = Seen(text)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(seen.names)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "srcset")]
    assert all(value and value.startswith("#") for name, value in seen.attributes if name == "href")
    assert not re.search(r"url\(|@import|https?:", text)
    assert "nan" not in re.findall(r"[\w.]+", " ".join(seen.words).lower())
    assert not [
        value for name, value in seen.attributes if name in ("x", "y", "cx", "cy", "d", "width") and re.search("nan|inf", value or "")
    ]
    assert text == page(facts), "the same facts are the same page"


def test_a_name_with_tags_in_it_is_shown_as_it_is() -> None:
    seen = Seen(page(hostile()))
    assert seen.words.count(ATTACK) >= 3
    assert {"u", "b", "i"} & set(seen.names) <= {"b", "i"}, "badges and legends, and nobody's name"


def test_every_plot_has_words_and_a_table_and_every_mark_its_figures() -> None:
    text = page(finished())
    plots = text.split("<svg")[1:]
    assert len(plots) > 15
    for plot in plots:
        assert re.match(r'[^>]*role="img" aria-label="[^"]{10,}', plot)
        drawn = plot.partition("</svg>")[0]
        assert drawn.count("<title>") > 1
    assert text.count("<summary>Numbers</summary>") == len(plots)


def test_a_refusal_is_told_at_the_top_with_every_line_that_was_not_met() -> None:
    facts = finished()
    first, *fates = headline(facts)
    assert first.startswith("The teacher (sklearn) labelled 3,300 of 3,300 samples for 2 students: base, small. The run is done;")
    assert fates[0] == "base (generation 2) shipped. phones: 3 of 3 confirmed."
    assert re.fullmatch(
        r"small \(generation 2\) did not ship, the gate refused it: accuracy 0\.\d+ is 0\.\d+ below its budget 0\.999\.", fates[1]
    )


@pytest.mark.parametrize(
    ("stage", "live", "says"),
    [
        ("generation 1: label and train", True, "The run goes on: it is at “generation 1: label and train”"),
        ("generation 1: label and train", False, "The run was killed at “generation 1: label and train”"),
        ("failed", False, "The run failed; no generation is closed yet. Error: no room"),
        ("stopped", False, "The run was stopped; the same command goes on"),
    ],
)
def test_a_run_that_is_not_over_says_where_it_is(stage: str, live: bool, says: str) -> None:
    facts = replace(unfinished(), stage=stage, live=live, error="no room" if stage == "failed" else "")
    assert says in headline(facts)[0]
    assert "its generation is open; in training or waiting for it" in headline(facts)[1]
    assert tiles(facts) == []
    text = page(facts)
    for missing in ("No student is judged yet.", "Nothing is measured on the test split yet", "No student&#39;s training is over yet."):
        assert missing in text
    assert "<svg" not in text


def test_what_could_not_be_read_is_said() -> None:
    facts = replace(finished(), spread=None, cost=None, labels=None, unread=("the labels: the bucket does not answer",))
    assert headline(facts)[-1] == "Could not be read: the labels: the bucket does not answer"
    assert "Nothing is labelled yet, or the labels could not be read." in page(facts)


def test_a_verdict_from_before_slices_were_kept_shows_none() -> None:
    versions = []
    for version in finished().versions:
        assert version.verdict is not None
        report = {key: value for key, value in version.verdict["report"].items() if key != "breakdown"}
        versions.append(replace(version, verdict={**version.verdict, "report": report}))
    text = page(replace(finished(), versions=tuple(versions)))
    for missing in ("No verdict with slices", "No verdict with counted confusions", "No verdict with reliability bands"):
        assert missing in text
    assert "Over the generations" in text


def test_a_hundred_classes_are_their_commonest_confusions() -> None:
    few, many = page(finished(classes=DIGITS)), page(RUNS["many classes"])
    assert "is ↓" in few
    assert "is ↓" not in many
    assert "The 10 commonest are drawn." in many
    assert ends_of("a class of a long name, number 40", 16) == "a class …mber 40", "what tells them apart is often at the end"


def test_old_verdicts_are_counted_and_left_out() -> None:
    facts = finished(students=("a",))
    many = tuple(replace(facts.versions[0], generation=number) for number in range(1, SHOWN + 4))
    text = page(replace(facts, versions=many))
    assert text.count('class="card verdict"') == SHOWN
    assert "3 older verdicts are in the run's folder" in text


def test_evidence_that_no_label_has_is_said_to_be_missing() -> None:
    text = page(replace(finished(), spread=spread_of(ensemble=False, hard=False)))
    assert "no disagreement (one teacher, not an ensemble) and no agreement with hard labels (the stream has none)" in text
    sure = replace(spread_of(), entropy_nats=Histogram(high=0.1, counts=(5,)))
    assert "5 labels" in page(replace(finished(), spread=sure)), "all in one bin"
