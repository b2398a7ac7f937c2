"""Logs: one JSON object a line, ours from the level asked for, the others' from WARNING."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.logs import OURS, log_as_json


@pytest.fixture(autouse=True)
def _levels_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", *OURS)]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_ours_speak_from_info_the_others_from_warning_and_each_record_is_one_line() -> None:
    stream = io.StringIO()
    log_as_json(stream)
    logging.getLogger("pipeline.labels").info("two\nlines of %s", "text", extra={"student": "small", "folder": Path("/x")})
    logging.getLogger("workers.driver").debug("too much")
    logging.getLogger("tuf.ngclient").info("chatter")
    logging.getLogger("tuf.ngclient").warning("a warning")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("at_unix_s") > 1e9
    assert first == {"level": "INFO", "logger": "pipeline.labels", "message": "two\nlines of text", "student": "small", "folder": "/x"}
    assert (second["logger"], second["message"]) == ("tuf.ngclient", "a warning")


def test_a_trace_is_in_its_records_line() -> None:
    stream = io.StringIO()
    log_as_json(stream, logging.ERROR)
    logging.getLogger("workers").warning("below the level")
    try:
        raise OSError("no space")
    except OSError:
        logging.getLogger("workers").exception("it failed", extra={"error": "mine"})
    (line,) = (json.loads(line) for line in stream.getvalue().splitlines())
    assert line["error"] == "mine"
    assert "OSError: no space" in line["exception"]


def test_a_file_is_appended_to_until_its_owner_closes_it(tmp_path: Path) -> None:
    path = tmp_path / "driver.log"
    for message in ("first", "second"):
        handler = log_as_json(path)
        logging.getLogger("workers.driver").info(message)
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["first", "second"]
