"""What a generation leaves on disk, and reading it back as facts for `pipeline.loop.generation`.

    generations/000001/opening.json                      who takes part and what each is made of; written before any work
    generations/000001/students/NAME/weights.pt weights.pt.json    the trained student and how its training went
                                     export/             graph.onnx, weights.bin: the file that ships
                                     verdict.json        the gate's report
                                     bundle.kdpb release.json   the signed release
                                     deltas/DIGEST       shorter ways to it, from earlier releases
                                     rollout-POPULATION.json    how its rollout ended
                                     control/ test.json  the honest control; figures on the test split
    generations/000001/outcome.json                      what became of each student; written last

Each file is written atomically when its step is done, so a step is done exactly if its file is there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import RunFile, StudentSection
from pipeline.labels.cost import Training
from pipeline.loop.generation import FAILURES, Fate, Opening, StudentFacts, wanted_digests
from pipeline.references import source_of
from pipeline.releases.bundle import open_bundle
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
    def deltas(self) -> Path:
        return self.root / "deltas"

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


def sources_of(run: RunFile, base: Path) -> dict[str, str]:
    """What names the code of each student, as it lies there now; empty for those that kdpipe ships."""
    return {name: source_of(section.use, base=base) for name, section in run.students.items()}


def devices_of(run: RunFile, population: str) -> list[str]:
    """Names of the population's devices that the run's machine plays."""
    return [f"{population}-{number + 1}" for number in range(run.fleet.populations[population].devices)]


def devices_gone(folder: RunFolder, run: RunFile) -> list[Path]:
    """Folders of devices that the run file no longer has."""
    kept = {name for population in run.fleet.populations for name in devices_of(run, population)}
    devices = folder.root / "devices"
    return [path for path in sorted(devices.iterdir()) if path.name not in kept] if devices.is_dir() else []


def facts_of(folder: RunFolder, run: RunFile, opening: Opening, *, failed: set[str]) -> dict[str, StudentFacts]:
    """What the disk says of every student that takes part."""
    facts = {}
    for name in opening.students:
        files = student_files(folder, opening.generation, name)
        populations = populations_of(run, name)
        verdict = read_json(files.verdict)
        facts[name] = StudentFacts(
            trained=files.trained.exists(),
            failed=name in failed,
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
    record = read_json(_opening_file(folder, numbers[-1]))
    return Opening(generation=record["generation"], new_rows=record["new_rows"], students=record["students"])


def write_opening(folder: RunFolder, opening: Opening, run: RunFile, sources: Mapping[str, str]) -> None:
    """Open a generation, or amend it. A student keeps what it was opened with until its digest is the run file's."""
    path = _opening_file(folder, opening.generation)
    before = read_json(path) or {}
    wanted = wanted_digests(run, sources)
    current = [name for name, digest in opening.students.items() if wanted.get(name) == digest]
    write_json(
        path,
        {
            "generation": opening.generation,
            "new_rows": opening.new_rows,
            "students": dict(opening.students),
            "sections": {
                name: run.students[name].model_dump(mode="json") if name in current else before["sections"][name]
                for name in opening.students
            },
            "classes": {name: run.classes if name in current else before.get("classes", {}).get(name) for name in opening.students},
            "sources": {name: sources[name] if name in current else before.get("sources", {}).get(name, "") for name in opening.students},
        },
    )


def section_of(folder: RunFolder, generation: int, student: str) -> StudentSection:
    """What a student was made of in a generation, whatever the run file says now."""
    return StudentSection.model_validate(read_json(_opening_file(folder, generation))["sections"][student])


def classes_of(folder: RunFolder, generation: int, student: str) -> tuple[str, ...] | None:
    """What a version's answers stand for, in their order, whatever the run file says now; None where nothing on disk says it.

    Generations of an older kdpipe did not write it down; their bundles say it.
    """
    recorded = read_json(_opening_file(folder, generation)).get("classes", {}).get(student)
    bundle = student_files(folder, generation, student).bundle
    if recorded is None and bundle.exists():
        recorded = open_bundle(bundle).manifest.classes
    return None if recorded is None else tuple(recorded)


def _opening_file(folder: RunFolder, generation: int) -> Path:
    return folder.generation(generation) / "opening.json"


def outcomes(folder: RunFolder) -> dict[int, dict[str, Any]]:
    """Outcome of every closed generation, oldest first."""
    found = {number: read_json(folder.generation(number) / "outcome.json") for number in folder.generations()}
    return {number: outcome for number, outcome in found.items() if outcome}


def trained_in(folder: RunFolder, opening: Opening, base: Path) -> frozenset[str]:
    """Students whose training in this generation is over.

    Not one that nobody has judged yet and whose code below `base` is another by now: what it was is not there to be exported.
    """
    record = read_json(_opening_file(folder, opening.generation)) or {"sections": {}}
    found = set()
    for name, section in record["sections"].items():
        files = student_files(folder, opening.generation, name)
        as_opened = source_of(section["use"], base=base) == record.get("sources", {}).get(name, "")
        if files.trained.exists() and (as_opened or files.verdict.exists()):
            found.add(name)
    return frozenset(found)


def trainings(folder: RunFolder) -> list[Training]:
    """Every training that is over, and which labels it read, oldest first."""
    found = []
    for number in folder.generations():
        for path in sorted((folder.generation(number) / "students").glob("*/weights.pt.json")):
            trained = read_json(path)
            facts = {"teacher": trained["teacher"], "new_rows": trained["live_rows"], "rows": trained["rows"]}
            found.append(Training(student=trained["name"], generation=number, **facts))
    return found


def trained_digests(folder: RunFolder) -> dict[str, str]:
    """Student -> spec digest of its latest training in closed generations; without those whose latest one failed."""
    latest = {name: student for outcome in outcomes(folder).values() for name, student in outcome["students"].items()}
    return {name: student["spec"] for name, student in latest.items() if student["fate"] not in FAILURES}


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
    return next(versions_of(folder, student), None)


def versions_of(folder: RunFolder, student: str) -> Iterator[Incumbent]:
    """Every version of a student that passed the gate and was not halted, newest first."""
    for number, outcome in reversed(outcomes(folder).items()):
        record = outcome["students"].get(student)
        if record and record["fate"] in (Fate.SHIPPED, Fate.NOT_DEPLOYED):
            yield Incumbent(
                generation=number, spec=record["spec"], steps_total=record["steps_total"], files=student_files(folder, number, student)
            )
