"""What the page is made from: a run's folder as plain values. A part that is not there yet is None or empty, never invented."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.labels.cost import LabelsCost
from pipeline.labels.spread import EvidenceSpread

Document = Mapping[str, Any]
"""A JSON file of the run, as it was written."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One student in one generation."""

    generation: int
    student: str
    classes: tuple[str, ...]
    """What it was made for, in the order that its documents count them."""
    fate: str | None
    """What became of it; None while its generation is open."""
    says: str
    trained: Document | None
    """weights.pt.json: how its training went."""
    verdict: Document | None
    """verdict.json: what the gate saw of the file that ships."""
    test: Document | None
    """test.json: teacher, student and control on the test split."""

    @property
    def name(self) -> str:
        return f"{self.student}, generation {self.generation}"


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    rows_planned: int
    rows_committed: int
    rows_quarantined: int


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Everything the page says."""

    name: str
    folder: str
    stage: str
    """What the driver is doing, or did last."""
    live: bool
    """Whether a driver holds the folder now."""
    error: str
    teacher: str
    made_at: str
    """When the page was made, for people."""
    versions: tuple[Version, ...]
    """Oldest generation first, students by name."""
    labels: LabelCounts | None
    cost: LabelsCost | None
    spread: EvidenceSpread | None
    unread: tuple[str, ...] = ()
    """What is there and could not be read, and why."""

    def latest(self) -> tuple[Version, ...]:
        """The newest version of each student."""
        newest = {version.student: version for version in self.versions}
        return tuple(newest[name] for name in sorted(newest))

    def newest_with(self, what: str) -> tuple[Version, ...]:
        """The newest version of each student that has this document."""
        newest = {version.student: version for version in self.versions if getattr(version, what) is not None}
        return tuple(newest[name] for name in sorted(newest))

    def place_of(self, student: str) -> int:
        """Place of a student among all of the run's: its colour on every plot."""
        return sorted({version.student for version in self.versions}).index(student)
