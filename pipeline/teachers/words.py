"""From a language model's next-token log-probabilities to a distribution over label words. Pure.

Each class has words; a class's mass is that of the tokens that say one of them, whatever their case and leading space. A word of several
tokens is recognised by its first ones, as long as these begin no word of another class; where they do, the next token decides, so the
caller is told which prefix to ask about. What the server did not return is bounded by the least likely token that it did return: a class
without any returned token gets no more than that, and no more than its share of what is left of the whole.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Words = Mapping[str, Sequence[str]]
"""Class -> its words."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one list of next tokens says, after a prefix that was said already."""

    mass: Mapping[str, float]
    """Class -> probability of tokens that can only mean it."""
    open: Mapping[str, float]
    """Prefix, with the token -> probability: words of several classes begin so."""
    least: float
    """Probability of the least likely returned token."""
    rest: float
    """What all returned tokens leave of the whole."""


def read_tokens(top: Mapping[str, float], words: Words, *, said: str = "") -> Reading:
    """`top` has the most likely next tokens with their natural log-probabilities."""
    mass, undecided = dict.fromkeys(words, 0.0), dict[str, float]()
    probs = {token: math.exp(min(log_prob, 0.0)) for token, log_prob in top.items()}
    for token, prob in probs.items():
        text = _plain(said + token)
        meant = {name for name, ways in words.items() for way in ways if text and _plain(way).startswith(text)}
        whole = {name for name, ways in words.items() for way in ways if _plain(way) == text}
        if len(meant) == 1 or len(whole) == 1 < len(meant):
            mass[next(iter(whole if len(meant) > 1 else meant))] += prob
        elif meant:
            undecided[said + token] = undecided.get(said + token, 0.0) + prob
    return Reading(mass=mass, open=undecided, least=min(probs.values(), default=0.0), rest=max(0.0, 1.0 - sum(probs.values())))


def distribution(mass: Mapping[str, float], reading: Reading) -> tuple[list[float], float]:
    """(natural log-probabilities in the order of `mass`, how much of the model's answer was label words at all).

    `mass` is the reading's, with what came of its open prefixes added.
    """
    said = sum(mass.values())
    silent = [name for name, share in mass.items() if share == 0]
    bound = min(reading.least, reading.rest / len(silent)) if silent else 0.0
    shares = [share or bound for share in mass.values()]
    total = sum(shares)
    return [math.log(share / total) if share > 0 else -math.inf for share in shares] if total > 0 else [math.nan] * len(shares), said


def _plain(text: str) -> str:
    return text.replace("▁", " ").replace("Ġ", " ").strip().casefold()
