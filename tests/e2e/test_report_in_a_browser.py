"""The report as a real browser shows it: on a desk and on a phone, light and dark, whatever the run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.report.facts import RunFacts
from pipeline.report.page import page
from tests.kit.browser import BROKEN_WORDS, CONTRAST, EMPTY, OVERLAPS, SMALL, TOO_WIDE, Browser, open_browser
from tests.kit.reports import finished, hostile, unfinished

DESK, PHONE = 1280, 390
LONG = tuple(f"a class with a long name, number {number}" for number in range(100))
RUNS: dict[str, Callable[[], RunFacts]] = {
    "finished": finished,
    "two classes, agreement alone": lambda: finished(classes=("ham", "spam"), hard=False, control=False),
    "a hundred classes": lambda: finished(
        classes=LONG, students=("base", "small", *(f"student-{n}-with-a-name-of-forty-letters" for n in range(3)))
    ),
    "unfinished": unfinished,
    "hostile": hostile,
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module", params=RUNS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    out.write_text(page(RUNS[request.param]()))
    return out


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_it_shows_whole_without_an_error_or_a_request(browser: Browser, report: Path, width: int) -> None:
    browser.look_at(report, width=width)
    for folded in (True, False):
        assert browser.run(TOO_WIDE) == [], f"beyond {width} pixels"
        assert browser.run(SMALL) == [], "too small to read"
        assert browser.run(EMPTY) == []
        assert browser.run(OVERLAPS) == []
        if "&lt;" not in report.read_text():  # names that are attacks may be broken anywhere
            assert browser.run(BROKEN_WORDS) == []
        if folded:
            browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.asked_for() == [report.as_uri()]
    assert browser.said() == []


@pytest.mark.parametrize("dark", [False, True])
def test_its_text_stands_out_in_light_and_in_dark(browser: Browser, report: Path, dark: bool) -> None:
    browser.look_at(report, width=DESK, dark=dark)
    assert browser.run(CONTRAST) >= 4.5, "WCAG AA"
    paper = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(paper) < 60) is dark


def test_every_section_of_a_finished_run_has_a_plot(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(finished()))
    browser.look_at(tmp_path / "report.html", width=DESK)
    counts = browser.run("return [...document.querySelectorAll('main section')].map(s => [s.id, s.querySelectorAll('svg').length])")
    assert [name for name, plots in counts if not plots] == ["gate"], "the gate's lines are a table"
    assert len(counts) == 9


def test_names_that_are_attacks_make_no_element(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(hostile()))
    browser.look_at(tmp_path / "report.html", width=DESK)
    assert browser.run("return document.querySelectorAll('script, img, u, iframe, [onerror]').length") == 0
    assert "<script>" in browser.run("return document.querySelector('h1').textContent"), "it is shown as what it is: a name"


def test_a_page_that_is_broken_is_seen_to_be(browser: Browser, tmp_path: Path) -> None:
    """Of the checks above, each on a page that must fail it."""
    head = "<style>body{margin:0}</style><meta name=viewport content='width=device-width'>"
    words = "<text x=0 y=14>one</text><text x=4 y=14>two</text>"
    figure = f"<figure><svg aria-label=x viewBox='0 0 340 20' width=340 height=20>{words}</svg></figure>"
    words = "<table style='width:40px;table-layout:fixed;overflow-wrap:anywhere'><td>unbreakable"
    text = f"{head}{words}</table><div style='width:2000px;font-size:9px'>wide</div>{figure}<img src='nowhere.png'>"
    (tmp_path / "bad.html").write_text(text)
    browser.look_at(tmp_path / "bad.html", width=DESK)
    assert browser.run(TOO_WIDE)
    assert browser.run(SMALL)
    assert browser.run(EMPTY)
    assert browser.run(OVERLAPS)
    assert browser.run(BROKEN_WORDS) == ["TD: unbreakable"]
    assert len(browser.asked_for()) == 2
    assert browser.said()
