"""What a person types or pipes, as inputs of the model that answers: texts, or rows of numbers.

A line is read by what the model eats, never by what it looks like: `[1, 2]` is a text to a model of texts. A line that does not fit is
named by where it stands; what came before it is answered. Whether the model agrees is decided once more by the device (`pipeline.inputs`).
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import DataError
from workers.edge.inputs import Input

TEXT, FLOATS = "text", "floats"


class LineUnreadableError(DataError):
    """A line, or a word of the command, is not what the model eats."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; expected {self.expected}; mend it and ask again: `kdpipe edge predict --help`"


@dataclass(frozen=True, kw_only=True)
class Diet:
    """What the model eats; `width` is bytes of a text, or numbers of a row."""

    kind: str = TEXT
    width: int = 0


def read_word(word: str, diet: Diet, where: str) -> Input:
    """A word of the command line: the text itself, or a JSON list of numbers. Raises LineUnreadableError."""
    return word if diet.kind == TEXT else _numbers(word, diet, where)


def read_line(line: str, diet: Diet, where: str) -> Input:
    """A line: a text or a JSON string, or a JSON list of numbers. Raises LineUnreadableError."""
    if diet.kind != TEXT:
        return _numbers(line, diet, where)
    if line[:1] == '"':
        try:
            value = json.loads(line)
        except ValueError:
            return line
        return value if isinstance(value, str) else line
    return line


def in_pieces(texts: Iterable[str], read: Callable[[str, int], Input], *, most: int) -> Iterator[list[Input]]:
    """At most so many inputs a call; `read` gets each with its number from 1. A bad one is raised after the good ones before it."""
    rest = iter(enumerate(texts, start=1))
    while piece := list(itertools.islice(rest, most)):
        inputs: list[Input] = []
        for number, text in piece:
            try:
                inputs.append(read(text, number))
            except LineUnreadableError:
                if inputs:
                    yield inputs
                raise
        yield inputs


def _numbers(text: str, diet: Diet, where: str) -> Sequence[float]:
    expected = f"a JSON list of {diet.width} numbers"
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # nested without end, too
        raise LineUnreadableError(where, f"{text[:40]!r}, which is no JSON" if text.strip() else "nothing", expected) from error
    if not isinstance(row, list):
        raise LineUnreadableError(where, f"{text[:40]!r}", expected)
    for place, value in enumerate(row, start=1):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise LineUnreadableError(where, f"{json.dumps(value)[:40]} in place {place}", f"{expected}, all finite")
    if len(row) != diet.width:
        raise LineUnreadableError(where, f"{len(row)} numbers", expected)
    return row
