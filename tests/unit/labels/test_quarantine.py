"""Why rows are set aside, as a person reads it: alike reasons count together."""

from pipeline.labels.entries import Plan, Quarantine
from pipeline.labels.log import LogWriter
from pipeline.labels.quarantine import kinds
from tests.kit.stores import MemoryStore


def test_reasons_that_differ_in_numbers_and_quoted_words_count_as_one_named_by_the_first() -> None:
    writer = LogWriter.open(MemoryStore(), holder="test", classes=("ham", "spam"), nonce="n", now_unix_s=1.0)
    writer.queue([Plan(part="a", name="a", first=0, rows=20, stride=1)])
    reasons = ["KeyError: 'x1' in row 7", "too long", "KeyError: 'other' in row 12", "at 0x7f3a", "at 0x11"]
    writer.queue([Quarantine(start=2 * number, stop=2 * number + 2, reason=reason) for number, reason in enumerate(reasons)])
    assert kinds(writer.flush(now_unix_s=2.0)) == [("KeyError: 'x1' in row 7", 4), ("at 0x7f3a", 4), ("too long", 2)]
