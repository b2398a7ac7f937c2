"""What happened in a run's folder, read for its report: documents of every version, the log's cost, the spread of its labels.

Reads only, and needs no run to be alive: a folder that is half way says what it has. A document of a version that this kdpipe does not
know, and labels that cannot be read, are named and left out; they end nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.errors import KdpipeError
from pipeline.labels.cost import LabelsCost, labels_cost
from pipeline.labels.log import LogReader
from pipeline.labels.spread import EvidenceSpread, evidence_spread
from pipeline.labels.store import Store, open_store
from pipeline.labels.verify import summarise
from pipeline.report.facts import LabelCounts, RunFacts, Version
from pipeline.students.checkpoint import VERSION as TRAINED_VERSION
from pipeline.students.gate import VERSION as REPORT_VERSION
from workers.driver.evaluation import VERSION as TEST_VERSION
from workers.driver.folder import RunFolder, holder_of, read_json
from workers.driver.labels import store_url_in
from workers.driver.records import classes_of, student_files, trainings


def history_of(folder: RunFolder, *, made_at: str, progress: Callable[[int, int], None] = lambda done, rows: None) -> RunFacts:
    """`progress` hears (labels looked at, labels)."""
    origin, status = read_json(folder.origin_file), read_json(folder.status_file) or {}
    unread: list[str] = []
    counts, cost, spread = _labels(folder, unread, progress)
    classes = tuple(origin["run"]["classes"])
    versions = tuple(version for number in folder.generations() for version in _versions(folder, number, unread, classes))
    return RunFacts(
        name=origin["run"]["name"],
        folder=folder.root.name,
        stage=status.get("stage", "not started"),
        live=holder_of(folder) is not None,
        error=status.get("error", ""),
        teacher=origin["run"]["teacher"]["use"],
        made_at=made_at,
        versions=versions,
        labels=counts,
        cost=cost,
        spread=spread,
        unread=tuple(unread),
    )


def _labels(
    folder: RunFolder, unread: list[str], progress: Callable[[int, int], None]
) -> tuple[LabelCounts | None, LabelsCost | None, EvidenceSpread | None]:
    """What can be had of the log. An object store that does not answer leaves the rest of the report as it is."""
    try:
        store = open_store(store_url_in(folder))
        counts = _counts(store)
        cost = labels_cost(LogReader(store).refresh(), trainings(folder))
        spread = evidence_spread(store, progress=progress)
    except KdpipeError as error:
        unread.append(f"the labels: {error}")
        return None, None, None
    unread += spread.unreadable if spread else ()
    return counts, cost, spread


def _counts(store: Store) -> LabelCounts:
    found = summarise(store)
    return LabelCounts(
        rows_planned=found.rows_planned,
        rows_committed=found.rows_committed,
        rows_quarantined=found.rows_quarantined,
    )


def _versions(folder: RunFolder, generation: int, unread: list[str], classes: tuple[str, ...]) -> Iterator[Version]:
    """Students of one generation, by name; `classes` are those of versions that do not say theirs."""
    root = folder.generation(generation)
    outcome = read_json(root / "outcome.json") or {"students": {}}
    for name in sorted(read_json(root / "opening.json")["students"]):
        files, fate = student_files(folder, generation, name), outcome["students"].get(name, {})
        known = {
            "trained": _known(read_json(files.trained), TRAINED_VERSION, f"{name} of generation {generation}, its training", unread),
            "verdict": read_json(files.verdict),
            "test": _known(read_json(files.test), TEST_VERSION, f"{name} of generation {generation}, its test", unread),
        }
        verdict = known["verdict"]
        if verdict and not _known(verdict["report"], REPORT_VERSION, f"{name} of generation {generation}, its verdict", unread):
            known["verdict"] = None
        yield Version(
            generation=generation,
            student=name,
            classes=_classes(folder, generation, name, unread) or classes,
            fate=fate.get("fate"),
            says=fate.get("says", ""),
            **known,
        )


def _classes(folder: RunFolder, generation: int, name: str, unread: list[str]) -> tuple[str, ...] | None:
    try:
        return classes_of(folder, generation, name)
    except KdpipeError as error:
        unread.append(f"{name} of generation {generation}, its bundle: {error}")
        return None


def _known(document: Mapping[str, Any] | None, version: int, what: str, unread: list[str]) -> Mapping[str, Any] | None:
    if document is None or document.get("version") == version:
        return document
    unread.append(f"{what}: version {document.get('version')}; this kdpipe reads {version}")
    return None
