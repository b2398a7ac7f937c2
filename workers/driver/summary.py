"""The end of a generation in figures: the whole of `run.json`.

Everything here is read from what the stages left on disk or asked of the devices now; nothing is computed from memory of the run, so a
run that was killed and went on says the same. How it looks to a person is `rendering`'s.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.distill.metrics import log_softmax
from pipeline.errors import FleetError
from pipeline.labels.store import open_store
from pipeline.labels.verify import summarise as summarise_labels
from pipeline.recipes import teacher_note
from pipeline.sources import open_source
from pipeline.students.graph import Graph
from pipeline.students.samples import read_samples
from workers.driver.context import RunContext
from workers.driver.evaluation import test_figures
from workers.driver.fleet import Confirmed, Fleet
from workers.driver.folder import read_json
from workers.driver.labels import store_url
from workers.driver.records import outcomes, student_files
from workers.driver.standing import standing_of, taken_back, what_next
from workers.edge.local_client import LocalDevice

VERSION = 1
ASKED = 32
"""Samples sent to a device."""
SAME_WITHIN = 1e-3


class AnswersDifferError(FleetError):
    """A device answers otherwise than the release that it says it runs."""

    def __init__(self, population: str, device: str, largest_difference: float) -> None:
        super().__init__(population, device, largest_difference)
        self.population, self.device, self.largest_difference = population, device, largest_difference

    def __str__(self) -> str:
        return (
            f"population {self.population}: {self.device} answered otherwise than its release, by up to {self.largest_difference:.1e} in a "
            f"probability; expected at most {SAME_WITHIN:.0e}; `kdpipe logs DIR {self.device}` says what it runs, and a rollout of another "
            "release replaces it"
        )


def summarise(context: RunContext, confirmed: dict[str, Confirmed], fleet: Fleet) -> dict[str, Any]:
    """Needs a closed generation and a settled fleet."""
    closed = outcomes(context.folder)
    latest = max(closed)
    labels = summarise_labels(open_store(store_url(context)))
    judged = {name: files for name in closed[latest]["students"] if (files := student_files(context.folder, latest, name)).verdict.exists()}
    return {
        "version": VERSION,
        "name": context.run.name,
        "written_unix_s": round(time.time(), 3),
        "generation": latest,
        "outcome": closed[latest],
        "labels": {
            "rows_planned": labels.rows_planned,
            "rows_committed": labels.rows_committed,
            "rows_reused": labels.rows_reused,
            "rows_quarantined": labels.rows_quarantined,
            "bytes": labels.bytes,
            "teacher_s": labels.teacher_s,
        },
        "learning": read_json(context.folder.generation(latest) / "labelling.json"),
        "teacher": {"use": context.run.teacher.use, "note": teacher_note(context.run)},
        "test": {
            name: test_figures(context, files, steps=closed[latest]["students"][name]["steps_total"]) for name, files in judged.items()
        },
        "taken_back": _taken_back(context),
        "devices": {population: asdict(count) for population, count in confirmed.items()},
        "answers": {population: _compare_answers(context, population, fleet) for population in confirmed},
        "stages_s": {name: round(seconds, 2) for name, seconds in context.reporter.stage_seconds.items()},
        "wall_s": round(context.reporter.elapsed_s, 2),
    }


def answers_that_differ(summary: Mapping[str, Any]) -> list[AnswersDifferError]:
    """One error for each population whose device does not answer as the artefact does. A difference that is no number is one."""
    return [
        AnswersDifferError(population, answers["device"], answers["largest_difference"])
        for population, answers in summary["answers"].items()
        if answers and not answers["same"]
    ]


def _taken_back(context: RunContext) -> dict[str, Any]:
    """Of each student whose latest release was yanked."""
    found = {name: back for name in context.run.students if (back := taken_back(context.folder, name))}
    return {
        name: {"generation": back.version.generation, "reason": back.yank.reason, "says": what_next(context.folder, name, back)}
        for name, back in found.items()
    }


def _compare_answers(context: RunContext, population: str, fleet: Fleet) -> dict[str, Any] | None:
    """Ask a device about samples through its local API, and the artefact here: how far apart are they?"""
    folders = fleet.device_folders(population)
    incumbent = standing_of(context.folder, context.run.fleet.populations[population].student)
    if not folders or incumbent is None:
        return None
    section = context.run.test or context.run.validation
    inputs = read_samples(open_source(section, base=context.base), classes=context.run.classes).inputs[:ASKED]
    with LocalDevice(folders[0]) as device:
        given = device.predict(inputs)
    expected_NK = _artefact_probabilities(incumbent.files.export, read_json(incumbent.files.verdict)["export"], inputs)
    return compared(folders[0].name, given, expected_NK)


def compared(device: str, given: Mapping[str, Any], expected_NK: Any) -> dict[str, Any] | None:
    """How far what a device answered by itself is from the artefact's answers; None where the teacher answered all in its place."""
    own_N = ~np.array(given["by_teacher"], dtype=bool)
    if not own_N.any():
        return None
    worst = float(np.abs(np.array(given["probabilities"]) - expected_NK)[own_N].max())
    return {"device": device, "asked": int(own_N.sum()), "largest_difference": worst, "same": worst <= SAME_WITHIN}


def _artefact_probabilities(export: Path, facts: dict[str, Any], inputs: Any) -> Any:
    graph = Graph(export / "graph.onnx", kind=facts["kind"])
    return np.exp(log_softmax(graph.logits(inputs) / facts["temperature"]))
