"""What a generation leaves on disk, and reading it back as facts for `pipeline.loop.generation`.

    generations/000001/opening.json                      who takes part, from which incumbent; written before any work
    generations/000001/students/NAME/weights.pt weights.pt.json    the trained student and how its training went
                                     export/             graph.onnx, weights.bin: the file that ships
                                     verdict.json        the gate's report
                                     bundle.kdpb release.json   the signed release
                                     rollout-POPULATION.json    how its rollout ended
                                     control/ test.json  the honest control; figures on the test split
    generations/000001/outcome.json                      what became of each student; written last

Each file is written atomically when its step is done, so a step is done exactly if its file is there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import RunFile
from pipeline.loop.generation import Fate, Opening, StudentFacts
from workers.driver.folder import RunFolder, read_json, write_json


@dataclass(frozen=True)
class StudentFiles:
    """Paths of one student in one generation."""

    root: Path

    @property
    def weights(self) -> Path:
        return self.root / "weights.pt"

    @property
    def trained(self) -> Path:
        """How the training went; written after the weights, so where it is, they are whole."""
        return self.root / "weights.pt.json"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def verdict(self) -> Path:
        return self.root / "verdict.json"

    @property
    def bundle(self) -> Path:
        return self.root / "bundle.kdpb"

    @property
    def release(self) -> Path:
        return self.root / "release.json"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def test(self) -> Path:
        return self.root / "test.json"

    def rollout(self, population: str) -> Path:
        return self.root / f"rollout-{population}.json"


def student_files(folder: RunFolder, generation: int, student: str) -> StudentFiles:
    return StudentFiles(folder.generation(generation) / "students" / student)


def populations_of(run: RunFile, student: str) -> list[str]:
    """Populations that run this student."""
    return sorted(name for name, population in run.fleet.populations.items() if population.student == student)


def facts_of(folder: RunFolder, run: RunFile, opening: Opening, *, failed: set[str]) -> dict[str, StudentFacts]:
    """What the disk says of every student that takes part."""
    facts = {}
    for name in opening.students:
        files = student_files(folder, opening.generation, name)
        populations = populations_of(run, name)
        verdict = read_json(files.verdict)
        facts[name] = StudentFacts(
            trained=files.trained.exists(),
            failed=name in failed and not files.trained.exists(),
            ships=verdict["ships"] if verdict else None,
            signed=files.release.exists(),
            populations=len(populations),
            rollouts_ended=sum(files.rollout(population).exists() for population in populations),
        )
    return facts


def open_generation(folder: RunFolder) -> Opening | None:
    """The generation that was opened and not closed, if there is one."""
    numbers = folder.generations()
    if not numbers or (folder.generation(numbers[-1]) / "outcome.json").exists():
        return None
    record = read_json(folder.generation(numbers[-1]) / "opening.json")
    return Opening(**{**record, "afresh": tuple(record["afresh"])})


def write_opening(folder: RunFolder, opening: Opening) -> None:
    write_json(
        folder.generation(opening.generation) / "opening.json",
        {
            "generation": opening.generation,
            "new_rows": opening.new_rows,
            "students": dict(opening.students),
            "afresh": list(opening.afresh),
        },
    )


def outcomes(folder: RunFolder) -> dict[int, dict[str, Any]]:
    """Outcome of every closed generation, oldest first."""
    found = {number: read_json(folder.generation(number) / "outcome.json") for number in folder.generations()}
    return {number: outcome for number, outcome in found.items() if outcome}


def trained_digests(folder: RunFolder) -> dict[str, str]:
    """Student -> spec digest of its latest training that did not fail, in closed generations."""
    digests = {}
    for outcome in outcomes(folder).values():
        for name, student in outcome["students"].items():
            if student["fate"] != Fate.FAILED:
                digests[name] = student["spec"]
    return digests


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """The release that a student's successor must beat."""

    generation: int
    spec: str
    steps_total: int
    """Optimiser steps it has had, with those of the versions it started from."""
    files: StudentFiles


def incumbent_of(folder: RunFolder, student: str) -> Incumbent | None:
    """The latest version of a student that passed the gate and was not halted."""
    for number, outcome in reversed(outcomes(folder).items()):
        record = outcome["students"].get(student)
        if record and record["fate"] in (Fate.SHIPPED, Fate.NOT_DEPLOYED):
            return Incumbent(
                generation=number, spec=record["spec"], steps_total=record["steps_total"], files=student_files(folder, number, student)
            )
    return None
