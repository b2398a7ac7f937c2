"""Which replica runs the wave engine: a lease in the database with a term that only grows.

No clock is compared between machines. The leader raises `beats`; a replica that has seen neither term nor beats change for `patience_s`
of its own monotonic time takes over with the next term. A leader that froze may believe that it leads, but every engine write first asks,
in its own transaction, whether its term still stands (`check`), so a late one is refused: the term is a fencing token. A replica is known
by the host's name and an id that its folder keeps.
"""

import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select, update

from pipeline.errors import FleetError
from pipeline.files import read_bounded, write_atomic
from workers.orchestrator import tables

LEASE_S = 10.0
_ID = re.compile(r"[0-9a-f]{16}")
log = logging.getLogger(__name__)


class FencedError(FleetError):
    """This replica's term is over: another one leads. What it wanted to write was not written."""

    def __init__(self, held: int, found: int, holder: str) -> None:
        super().__init__(held, found, holder)
        self.held, self.found, self.holder = held, found, holder

    def __str__(self) -> str:
        ours = f"{self.held}, ours" if self.held else "one of ours"
        return f"leadership: term {self.found} of {self.holder}; expected {ours}; nothing was written, this replica follows now"


def replica_name(folder: Path, host: str) -> str:
    """`HOST ID`: a random id, made once and kept in the replica's folder, which it holds; names of hosts and paths are not unique."""
    file = folder / "replica"
    found = read_bounded(file, 100).decode(errors="replace") if file.exists() else ""
    if not _ID.fullmatch(found):
        found = secrets.token_hex(8)
        write_atomic(file, found.encode())
    return f"{host[:60]} {found}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The lease as the database holds it."""

    term: int
    holder: str
    beats: int


class Leadership:
    """One replica's part. `step`, `holds` and `check` run in the writer's transactions; `leads` may be asked anywhere."""

    def __init__(self, holder: str, *, patience_s: float = LEASE_S, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._holder, self._patience_s, self._monotonic = holder, patience_s, monotonic
        self._last: Claim | None = None
        self._last_s = 0.0
        self.term = 0
        """The term that this replica holds; 0 where it follows."""

    @property
    def leads(self) -> bool:
        return self.term > 0

    def step(self, connection: Connection) -> bool:
        """Raise the beat, take over, or wait. True where this replica has just begun to lead.

        A holder of our own name at our first look is an earlier life of this replica (its folder is locked), and nobody waits for the dead.
        Later it is a copy of our folder that runs elsewhere, and one of us leads.
        """
        found, now_s = _read(connection), self._monotonic()
        if self._is_ours(found):
            _write(connection, Claim(term=self.term, holder=self._holder, beats=found.beats + 1))
            return False
        self._step_down(found)
        is_free = not found.holder or (found.holder == self._holder and self._last is None)
        if found != self._last:
            self._last, self._last_s = found, now_s
        if not is_free and now_s - self._last_s < self._patience_s:
            return False
        self.term = found.term + 1
        _write(connection, Claim(term=self.term, holder=self._holder, beats=0))
        log.info("leading", extra={"term": self.term, "before": found.holder})
        return True

    def holds(self, connection: Connection) -> bool:
        """Whether this replica leads, as far as this transaction."""
        return self._is_ours(_read(connection))

    def check(self, connection: Connection) -> None:
        """That this replica still leads. Raises FencedError."""
        found = _read(connection)
        if not self._is_ours(found):
            held = self.term
            self._step_down(found)
            raise FencedError(held, found.term, found.holder or "nobody")

    def resign(self, connection: Connection) -> None:
        """Let another replica lead at once; for a stop in order."""
        found = _read(connection)
        if self._is_ours(found):
            _write(connection, Claim(term=self.term, holder="", beats=0))
        self.term = 0

    def _is_ours(self, found: Claim) -> bool:
        return self.term > 0 and (found.term, found.holder) == (self.term, self._holder)

    def _step_down(self, found: Claim) -> None:
        if self.term:
            log.warning("lost the lead", extra={"term": self.term, "found": found.term, "holder": found.holder})
        self.term = 0


def _read(connection: Connection) -> Claim:
    table = tables.leadership.c
    row = connection.execute(select(table.term, table.holder, table.beats)).one()
    return Claim(term=row.term, holder=row.holder, beats=row.beats)


def _write(connection: Connection, claim: Claim) -> None:
    connection.execute(update(tables.leadership).values(term=claim.term, holder=claim.holder, beats=claim.beats))
