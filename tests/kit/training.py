"""One student's training over the labels that `tests.kit.labelling` makes, everything of it in one folder; a board and a clock for it."""

from collections.abc import Callable
from pathlib import Path

from pipeline.config import StudentSection
from pipeline.references import source_of
from tests.kit.labelling import CLASSES
from workers.board import TrainingProgress, TrainingState
from workers.teaching import TrainingSpec


def training_spec(folder: Path, student: StudentSection, *, name: str = "small") -> TrainingSpec:
    """Labels in `folder/labels`, checkpoints in `folder/training`, the weights beside them."""
    return TrainingSpec(
        name=name,
        student=student,
        source=source_of(student.use, base=folder),
        classes=CLASSES,
        kind="text",
        store_url=str(folder / "labels"),
        generation=1,
        seed=3,
        base=folder,
        storage=folder / "training",
        mixed_teachers=False,
        warm_start=None,
        out=folder / f"{name}.pt",
    )


class Watched:
    """A board that keeps all reports and acts on some."""

    def __init__(self, act: Callable[[TrainingProgress], bool | None] = lambda _: None) -> None:
        self.seen: list[TrainingProgress] = []
        self._act = act

    def report(self, student: str, progress: TrainingProgress) -> bool:
        assert student == "small"
        self.seen.append(progress)
        return self._act(progress) is not False

    @property
    def states(self) -> list[TrainingState]:
        found = [progress.state for progress in self.seen]
        return [state for place, state in enumerate(found) if not place or found[place - 1] is not state]


class Clock:
    """Seconds go by when it is looked at, so that every report is due; a sleeper's patience is bounded."""

    def __init__(self) -> None:
        self.now_s, self.slept = 0.0, 0
        self.on_sleep: Callable[[int], None] = lambda _: None

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        assert self.slept < 1000, "it waits for ever"
        self.on_sleep(self.slept)
