"""A language model as a teacher, against a server that speaks the protocol: what words mean, and what goes wrong on the way."""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import TeacherSection
from pipeline.labels.log import LogReader
from pipeline.teachers import Teacher, load_teacher, openai
from pipeline.teachers.teacher import TeacherLoadError, TeacherUnavailableError
from pipeline.teachers.words import distribution, read_tokens
from tests.kit.labelling import Bench, MemorySource
from tests.kit.openai_server import OpenAIServer
from tests.kit.stores import MemoryStore

PROMPT = "spam or ham? {text} {not this} Answer:"
WORDS = {"ham": "ham", "spam": "spam"}


def tiny(prompt: str) -> dict[str, float]:
    """Sure of what it is told; says other things too."""
    spam = 0.8 if "money" in prompt else 0.1
    return {" Spam": spam * 0.5, "spam": spam * 0.5, " ham": 0.9 - spam, "The": 0.06, " I": 0.04}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(tiny) as running:
        yield running


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "RETRY", openai.RETRY.new(backoff_factor=0, backoff_jitter=0))


def load(server: OpenAIServer, *, base: Path = Path(), words: Any = None, **options: Any) -> Teacher:
    given = {"url": server.url, "model": "tiny", "prompt": PROMPT, "words": words or WORDS} | options
    return load_teacher(TeacherSection(use="openai", options=given), classes=tuple(words or WORDS), base=base)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_tokens_of_a_word_are_added_up_whatever_their_case_and_space(server, api):
    log_probs = load(server, api=api).log_probs(pa.array(["free money", "the agenda"]))
    np.testing.assert_allclose(np.exp(log_probs), [[0.1 / 0.9, 0.8 / 0.9], [0.8 / 0.9, 0.1 / 0.9]], rtol=1e-5)
    assert sorted(server.prompts) == ["spam or ham? free money {not this} Answer:", "spam or ham? the agenda {not this} Answer:"]


@pytest.mark.parametrize("path", ["/v1/chat/completions"])
def test_what_is_asked_is_what_the_protocol_says(server, path):
    load(server, top_logprobs=5).log_probs(pa.array(["x"]))
    asked = dict(server.requests)[path]
    assert {name: asked[name] for name in ("model", "max_tokens", "temperature", "logprobs", "top_logprobs")} == {
        "model": "tiny",
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 5,
    }


def test_words_that_begin_alike_are_told_apart_by_their_next_tokens():
    def model(prompt: str) -> dict[str, float]:
        return {"ort": 0.75, "am": 0.25} if prompt.endswith("sp") else {"sp": 0.6, "news": 0.4}

    with OpenAIServer(model) as server:
        words = {"spam": "spam", "sport": "sport", "news": "news"}
        log_probs = load(server, words=words, api="completions").log_probs(pa.array(["x"]))
        np.testing.assert_allclose(np.exp(log_probs), [[0.15, 0.45, 0.4]], rtol=1e-5)
        chat = np.exp(load(server, words=words).log_probs(pa.array(["x"])))
        assert chat[0].argmax() == 2, "a chat server cannot be asked to go on: what is open counts for nothing"


def test_a_class_that_was_not_returned_gets_no_more_than_the_least_that_was():
    reading = read_tokens({"ham": math.log(0.7), "The": math.log(0.2)}, {"ham": ("ham",), "spam": ("spam",)})
    log_probs, said = distribution(reading.mass, reading)
    assert said == pytest.approx(0.7)
    assert np.exp(log_probs)[1] == pytest.approx(0.1 / 0.8)


@given(shares=st.lists(st.floats(1e-6, 1), min_size=1, max_size=20), left=st.floats(0, 0.5))
def test_whatever_comes_back_is_a_distribution_or_a_bad_row(shares, left):
    scale = (1 - left) / sum(shares)
    names = ["ham", "spam", "news", *(f"other{number}" for number in range(17))]
    top = {name: math.log(share * scale) for name, share in zip(names, shares, strict=False)}
    reading = read_tokens(top, {"ham": ("ham",), "spam": ("spam",), "news": ("news",)})
    log_probs, said = distribution(reading.mass, reading)
    assert 0 <= said <= 1 + 1e-9
    assert np.isnan(log_probs).all() or np.exp(log_probs).sum() == pytest.approx(1)


def test_an_answer_that_is_no_label_word_is_a_bad_row():
    with OpenAIServer(lambda prompt: {"Sorry": 0.98, "ham": 0.01, "spam": 0.01} if "odd" in prompt else {"ham": 1.0}) as server:
        log_probs = load(server).log_probs(pa.array(["odd", "plain"]))
        assert np.isnan(log_probs[0]).all()
        assert np.exp(log_probs[1]).argmax() == 0


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_model_that_ends_its_answer_at_once_is_a_bad_row(server, api):
    teacher = load(server, api=api)
    server.say_nothing()
    assert np.isnan(teacher.log_probs(pa.array(["x"]))).all()
    assert np.isfinite(teacher.log_probs(pa.array(["x"]))).all()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, status):
    teacher = load(server)
    server.refuse(status, times=3, retry_after_s=0)
    assert np.isfinite(teacher.log_probs(pa.array(["x"]))).all()
    assert len(server.requests) == 1 + 4


def test_retry_after_is_waited_for(server, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waited.append)
    teacher = load(server)
    server.refuse(429, retry_after_s=7)
    teacher.log_probs(pa.array(["x"]))
    assert waited == [7]


@pytest.mark.parametrize(
    "fault",
    [
        lambda server: server.truncate(),
        lambda server: server.hang_up(),
        lambda server: server.garble(b"<html>"),
        lambda server: server.garble(b'{"choices": []}'),
        lambda server: server.garble(b'{"choices": [{"logprobs": null}]}'),
        lambda server: server.garble(b"[" * 100_000),
    ],
    ids=["truncated", "hung up", "no JSON", "no choice", "no log-probabilities", "nested"],
)
def test_an_answer_that_is_none_is_asked_for_again(server, fault):
    teacher = load(server)
    fault(server)
    assert np.isfinite(teacher.log_probs(pa.array(["x"]))).all()


def test_a_server_without_log_probabilities_is_named(server):
    teacher = load(server)
    server.garble(b'{"choices": [{"message": {"content": "ham"}, "logprobs": null}]}', times=99)
    with pytest.raises(TeacherUnavailableError, match=r"/chat/completions answered what has no log-probabilities .*\"ham\""):
        teacher.log_probs(pa.array(["x"]))


def test_an_answer_without_end_is_not_read_to_the_end(server, monkeypatch):
    monkeypatch.setattr(openai, "MAX_ANSWER_BYTES", 1000)
    teacher = load(server)
    server.garble(b" " * 100_000, times=99)
    with pytest.raises(TeacherUnavailableError, match="no log-probabilities"):
        teacher.log_probs(pa.array(["x"]))


def test_a_server_that_says_nothing_is_given_up_after_its_time(server):
    teacher = load(server, timeout_s=0.05)
    over = threading.Event()
    server.stall(over, times=99)
    try:
        with pytest.raises(TeacherUnavailableError, match=r"teacher at http.*Read timed out"):
            teacher.log_probs(pa.array(["x"]))
    finally:
        over.set()


def test_a_wrong_key_is_refused_and_never_shown(tmp_path):
    with OpenAIServer(tiny, key="right") as server:
        (tmp_path / "key").write_text("wrong-secret\n")
        with pytest.raises(TeacherUnavailableError, match=r"401.*Incorrect API key") as refused:
            load(server, base=tmp_path, api_key_file="key")
        assert "wrong-secret" not in str(refused.value)
        (tmp_path / "key").write_text("right\n")
        assert np.isfinite(load(server, base=tmp_path, api_key_file="key").log_probs(pa.array(["x"]))).all()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"model": "huge"}, "no model 'huge' at .*; expected one of: tiny"),
        ({"prompt": "no place for it"}, r"options\.prompt: string should match"),
        ({"words": {"ham": "ham"}}, r"words for \['ham'\]; expected words for each of \['ham', 'spam'\]"),
        ({"temperature": 1}, r"options\.temperature: extra inputs are not permitted"),
    ],
)
def test_options_that_cannot_be_are_refused(server, options, problem):
    given = {"url": server.url, "model": "tiny", "prompt": PROMPT, "words": WORDS} | options
    with pytest.raises(TeacherLoadError, match=problem):
        load_teacher(TeacherSection(use="openai", options=given), classes=("ham", "spam"), base=Path())


def test_the_fingerprint_covers_what_is_asked_and_not_how(server):
    first = load(server).fingerprint
    assert load(server, concurrency=2, timeout_s=5.0).fingerprint == first
    others = [load(server, prompt="other {text}"), load(server, words={"ham": "fine", "spam": "spam"}), load(server, api="completions")]
    assert len({first, *(other.fingerprint for other in others)}) == 4


def seconds_of(server: OpenAIServer, rows: list[str], *, workers_max: int = 1, **options: Any) -> float:
    """From loading the teacher, which asks once, to its last answer."""
    given = {"url": server.url, "model": "tiny", "prompt": "{text}", "words": WORDS} | options
    section = TeacherSection(use="openai", options=given, workers_max=workers_max)
    began_s = time.monotonic()
    assert np.isfinite(load_teacher(section, classes=("ham", "spam"), base=Path()).log_probs(pa.array(rows))).all()
    return time.monotonic() - began_s


@pytest.fixture
def short_minute(monkeypatch: pytest.MonkeyPatch) -> float:
    """In seconds."""
    monkeypatch.setattr(openai, "BUDGET_MS", 300)
    return 0.3


def test_a_budget_of_requests_holds_them_back(server, short_minute):
    assert seconds_of(server, ["x"] * 8, requests_per_minute=3) >= 2 * short_minute, "9 requests, 3 a minute"
    assert len(server.requests) == 9


def test_a_request_that_is_made_again_counts_again(server, short_minute):
    server.refuse(503, times=5)
    assert seconds_of(server, ["x"], requests_per_minute=2) >= 3 * short_minute, "7 requests, 2 a minute"
    assert len(server.requests) == 7


def test_an_answer_that_is_asked_for_again_counts_again(server, short_minute):
    teacher = load(server, requests_per_minute=2)
    server.garble(b"<html>", times=2)
    began_s = time.monotonic()
    teacher.log_probs(pa.array(["x"]))
    assert time.monotonic() - began_s >= short_minute, "3 requests, 2 a minute"
    assert len(server.requests) == 4


def test_teachers_share_a_budget(server, short_minute):
    assert seconds_of(server, ["x"] * 5, requests_per_minute=5, workers_max=2) >= 2 * short_minute, "6 requests, 2 a minute"


def test_a_member_of_an_ensemble_takes_its_teachers_share(server, short_minute):
    given = {"url": server.url, "model": "tiny", "prompt": "{text}", "words": WORDS, "requests_per_minute": 1}
    members = [{"use": "openai", "options": given}] * 2
    section = TeacherSection.model_validate({"use": "ensemble", "members": members, "workers_max": 2})
    with pytest.raises(TeacherLoadError, match="requests_per_minute = 1 for 2 teachers; expected one or more for each"):
        load_teacher(section, classes=("ham", "spam"), base=Path())


def test_a_budget_of_tokens_holds_long_prompts_back_each_time_they_are_sent(server, short_minute):
    server.refuse(503, times=1)  # the list of models, which has no tokens
    rows = ["x" * 3000] * 2
    assert seconds_of(server, rows, tokens_per_minute=50) >= short_minute, "a prompt above the budget waits for all of it"
    teacher = load(server, tokens_per_minute=50)
    server.refuse(503, times=2)
    began_s = time.monotonic()
    teacher.log_probs(pa.array(rows[:1]))
    assert time.monotonic() - began_s >= 2 * short_minute


def test_a_server_that_sends_elsewhere_is_not_followed(server):
    teacher = load(server)
    server.redirect(server.url.replace("/v1", "/v2") + "/chat/completions")
    with pytest.raises(TeacherUnavailableError, match="/chat/completions answered 307"):
        teacher.log_probs(pa.array(["x"]))


def test_a_server_that_goes_away_ends_the_labelling_and_no_row_is_blamed(server):
    store, source = MemoryStore(), MemorySource({"a": [f"text {row}" for row in range(30)]})
    bench = Bench(store, source)
    teacher = load(server)
    bench.teacher.log_probs = teacher.log_probs  # type: ignore[method-assign]
    server.refuse(503, times=10_000)
    with pytest.raises(TeacherUnavailableError, match="503"):
        bench.run()
    server._faults.clear()
    outcome = bench.run()
    assert (outcome.rows_committed, outcome.rows_quarantined) == (30, 0)


def test_requests_are_repeated_by_a_library_with_growing_pauses():
    assert isinstance(openai.RETRY, urllib3.Retry)
    assert openai.RETRY.respect_retry_after_header


def test_a_prompt_that_is_refused_is_a_bad_row_and_the_others_get_their_labels(server):
    store, source = MemoryStore(), MemorySource({"a": [f"text {row}" for row in range(10)]})
    bench = Bench(store, source)
    teacher = load(server, concurrency=1)

    def log_probs(inputs: pa.Array) -> np.ndarray:
        if any(text == "text 7" for text in inputs.to_pylist()):
            server.refuse(400, times=1)
            return teacher.log_probs(inputs.filter(pa.compute.equal(inputs, "text 7")))
        return teacher.log_probs(inputs)

    bench.teacher.log_probs = log_probs  # type: ignore[method-assign]
    outcome = bench.run()
    assert (outcome.rows_committed, outcome.rows_quarantined) == (9, 1)
    (bad,) = LogReader(store).refresh().quarantined
    assert "refuses the prompt" in bad.reason


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff"])
def test_a_key_file_without_a_key_is_refused(server, tmp_path, content):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(TeacherLoadError, match=r"api_key_file .*expected a file with the key"):
        load(server, base=tmp_path, api_key_file="key")
