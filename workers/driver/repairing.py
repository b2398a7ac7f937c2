"""Labelling again what went bad, by the run and by `kdpipe labels repair`. Trains nothing, plans nothing, ends no generation."""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.errors import LabelStoreError
from pipeline.sources import Source, SourceSpec
from pipeline.sources.source import Part, PartChangedError, SourceMissingError
from workers.driver.cluster import Cluster
from workers.driver.labels import Place, labelling_of
from workers.driver.reporter import Gauge, Reporter
from workers.labelling import LabellingOutcome, LabellingProgress
from workers.labelling.crew import Crew
from workers.labelling.labelling import OpenCrew, ray_crew
from workers.labelling.messages import LabellerSpec


class RepairRefusedError(LabelStoreError):
    """Rows of bad shards can't be labelled again, and nobody said to forget them."""

    def __init__(self, refused: Mapping[str, str]) -> None:
        super().__init__(refused)
        self.refused = refused

    def __str__(self) -> str:
        first, *more = sorted(self.refused.items())
        others = f" (and {len(more)} more shards)" if more else ""
        return (
            f"{first[0]}{others} can't be labelled again: {first[1]}; expected source and teacher as they were; put them back, "
            "or give up these rows for ever with `kdpipe labels repair DIR --forget`"
        )


def teachers_on(cluster: Cluster) -> OpenCrew:
    """Teachers on the run's cluster, which is started or joined when the first is wanted."""

    def open_crew(spec: LabellerSpec) -> Crew:
        cluster.ensure()
        return ray_crew(spec)

    return open_crew


def label_again(
    place: Place, shards: Collection[str], *, open_crew: OpenCrew, reporter: Reporter, stop: threading.Event, forget: bool = True
) -> LabellingOutcome:
    """Label the committed shards of these keys again where they are bad indeed. Ids and positions stay, so no student notices.

    Rows that can't be labelled again get weight 0 for ever; unless `forget`, their shards are left as they are, the others are labelled,
    and RepairRefusedError is raised. Raises what `Labelling.repair` raises.
    """

    def show(now: LabellingProgress) -> None:
        reporter.show([Gauge(name="repair", done=now.teacher_calls, total=rows, says=now.says or "rows")])

    source = PerhapsGone(section=place.run.stream, base=place.base) if forget else None
    labelling = labelling_of(place, max(place.folder.generations(), default=1), source=source, open_crew=open_crew)
    rows = labelling.rows_of(shards)
    try:
        outcome = labelling.repair(frozenset(shards), progress=show, stop=stop, forget=forget)
    except SourceMissingError as error:
        raise RepairRefusedError(dict.fromkeys(shards, str(error))) from error
    if outcome.refused:
        raise RepairRefusedError(outcome.refused)
    return outcome


@dataclass(frozen=True, kw_only=True)
class PerhapsGone(SourceSpec):
    """A source that may not be there at all any more."""

    def open(self) -> Source:
        try:
            return super().open()
        except SourceMissingError as error:
            return _Gone(str(error))


class _Gone:
    """A source of which nothing is left: every row is asked for in vain."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def parts(self) -> list[Part]:
        return []

    def read(self, identity: str, rows: Collection[int]) -> object:
        raise PartChangedError(self._reason, identity, "")
