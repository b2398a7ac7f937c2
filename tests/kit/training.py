"""One student's training over the labels that `tests.kit.labelling` makes, everything of it in one folder."""

from pathlib import Path

from pipeline.config import StudentSection
from tests.kit.labelling import CLASSES
from workers.teaching import TrainingSpec


def training_spec(folder: Path, student: StudentSection, *, name: str = "small") -> TrainingSpec:
    """Labels in `folder/labels`, checkpoints in `folder/training`, the weights beside them."""
    return TrainingSpec(
        name=name,
        student=student,
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
