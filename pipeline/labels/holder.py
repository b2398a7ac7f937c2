"""Who writes a label log that lies where no file lock reaches: a heartbeat beside it.

    log/holder.json   {version, holder, nonce, beat, every_s}, put again with the next beat every `every_s` seconds while its run lives

It keeps people from starting two runs at one log by mistake; that two of them do no harm is the log's terms' doing. Whether a holder
lives is seen by watching the beat, never by comparing the clocks of two machines.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from pipeline.errors import KdpipeError
from pipeline.labels.entries import Count, Fact
from pipeline.labels.store import ObjectMissingError, Store

HOLDER_KEY = "log/holder.json"
PATIENCE_BEATS = 3
"""A holder that is silent for so many of its own intervals is dead."""


class Claim(Fact):
    """One beat of one run."""

    version: Literal[1] = 1
    holder: str
    """Who, for people."""
    nonce: str
    """The run's own."""
    beat: Count
    every_s: Annotated[float, Field(gt=0, le=3600)]

    @property
    def patience_s(self) -> float:
        return PATIENCE_BEATS * self.every_s


class LogHeldError(KdpipeError):
    """A live run writes the label log."""

    exit_code = 11

    def __init__(self, url: str, holder: str) -> None:
        super().__init__(url, holder)
        self.url, self.holder = url, holder

    def __str__(self) -> str:
        return (
            f"the labels in {self.url} are written by a live run ({self.holder}); expected one run at a time; "
            "end that one, give this one a `labelling.store` of its own, or take the log over with `kdpipe run ... --take-over`"
        )


def read_claim(store: Store) -> Claim | None:
    """The newest beat; None if nobody claims the log, or in words that are not understood: terms guard it all the same."""
    try:
        return Claim.model_validate_json(store.get(HOLDER_KEY))
    except (ObjectMissingError, ValidationError):
        return None


def write_claim(store: Store, claim: Claim) -> None:
    store.put(HOLDER_KEY, claim.model_dump_json().encode())


def is_alive(first: Claim | None, now: Claim | None) -> bool:
    """Whether somebody holds the log, by two looks at it."""
    return now is not None and now != first
