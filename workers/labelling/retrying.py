"""Making quarantined rows work again, by a committer of a term of its own. Asks no teacher: the next generation that labels does.

Rows whose file is not there as it was planned stay quarantined: as work they would only stop the next run.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.labels.entries import Quarantine, Retry
from pipeline.labels.intervals import Intervals
from pipeline.labels.log import LogReader, LogWriter
from pipeline.labels.quarantine import in_force
from pipeline.labels.rowspace import plan_of
from pipeline.labels.state import LogState
from pipeline.labels.store import Store
from pipeline.sources import GrowingSource, Source


@dataclass(frozen=True, kw_only=True)
class Retried:
    """What came of it."""

    rows: int
    """That are work again."""
    gone: Mapping[str, int]
    """Name of a part that is not there as it was planned -> its rows that were asked for and stay quarantined."""
    generation: int
    """The next that ends: the first that may label them."""


def retry(store: Store, source: Source, *, row: int | None = None, reason: str = "", holder: str, nonce: str, now_unix_s: float) -> Retried:
    """Make work again: the quarantined row `row`, or those whose reason has the text `reason` in it.

    Raises ConfigError for a row that is not quarantined. Writes nothing where there is nothing to do.
    """
    state = LogReader(store).refresh()
    if row is not None and not state.set_aside.overlaps(row, row + 1):
        raise ConfigError(
            "--row", f"row {row} is not quarantined", "a row without a label", "`kdpipe labels ls DIR --quarantined` lists them"
        )
    chosen = [rows for rows in in_force(state) if reason in rows.reason]
    if row is not None:
        chosen = [rows.model_copy(update={"start": row, "stop": row + 1}) for rows in chosen if rows.start <= row < rows.stop]
    there, gone = _sorted_out(state, source, chosen)
    if there:
        writer = LogWriter.open(store, holder=holder, classes=state.classes, nonce=nonce, now_unix_s=now_unix_s)
        writer.queue(Retry(start=start, stop=stop) for start, stop in there)
        writer.flush(now_unix_s=now_unix_s)
        writer.write_head()
    return Retried(rows=there.rows, gone=gone, generation=max(state.ends, default=0) + 1)


def _sorted_out(state: LogState, source: Source, chosen: Iterable[Quarantine]) -> tuple[Intervals, Mapping[str, int]]:
    """Those whose part can be read, and by name how many can't."""
    parts = {part.identity for part in source.parts()}
    there, gone = [], Counter[str]()
    for rows in chosen:
        plan = plan_of(state.plans, rows.start)
        if plan.part not in parts and isinstance(source, GrowingSource) and source.grown_from(plan.part):
            parts.add(plan.part)
        if plan.part in parts:
            there.append((rows.start, rows.stop))
        else:
            gone[plan.name] += rows.stop - rows.start
    return Intervals(there), gone
