"""The honest control of each student, trained beside everything else: the same student on the hard labels alone, as many steps.

Controls run as Ray tasks once the students have their labels, while versions are judged and rolled out; only the summary waits for
them. Each leaves `control/control.json`, written last. They decide nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import KdpipeError
from pipeline.files import write_atomic
from pipeline.sources import SourceSpec
from pipeline.students.control import train_control
from pipeline.students.export import export_student
from pipeline.students.models import StudentSpec
from pipeline.students.samples import read_samples, read_validation
from workers.driver.cluster import Cluster
from workers.driver.folder import read_json

CONTROL_CPUS = 1.0


@dataclass(frozen=True, kw_only=True)
class ControlSpec:
    """All that a task needs to train and export one control."""

    student: StudentSpec
    steps: int
    """As many as the student has had, over all generations it went on from, up to a bound."""
    labelled: SourceSpec
    validation: SourceSpec
    out: Path

    @property
    def result(self) -> Path:
        return self.out / "control.json"


class Controls:
    """Controls of a run, training in the background. Starting one that is done or under way does nothing."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._running: dict[Path, Any] = {}
        self.errors: list[str] = []

    def start(self, spec: ControlSpec) -> None:
        """Begin; needs the cluster, and starts it where nothing else has."""
        if spec.result.exists() or spec.out in self._running:
            return
        self._cluster.ensure()
        import ray

        task = ray.remote(num_cpus=CONTROL_CPUS, max_retries=3)(make_control)
        self._running[spec.out] = task.remote(spec)

    def waiting(self) -> int:
        """How many are still under way. One that failed is noted in `errors`: it decides nothing, so it ends nothing."""
        if not self._running:
            return 0
        import ray

        done, _ = ray.wait(list(self._running.values()), num_returns=len(self._running), timeout=0)
        for reference in done:
            try:
                ray.get(reference)
            except (KdpipeError, ray.exceptions.RayError) as error:
                self.errors.append(f"a control failed: {type(error).__name__}: {error}"[:300])
        self._running = {out: reference for out, reference in self._running.items() if reference not in done}
        return len(self._running)


def make_control(spec: ControlSpec) -> None:
    """Train and export one control, in this process."""
    classes = spec.student.classes
    section = spec.student.section.model_copy(update={"steps": spec.steps})
    labelled = read_samples(spec.labelled.open(), classes=classes)
    student = train_control(replace(spec.student, section=section), labelled)
    validation = read_validation(spec.validation.open(), classes=classes)
    exported = export_student(
        name=f"{spec.student.name}-control", student=student, fit=validation.fit, choose=validation.choose, out=spec.out
    )
    result: Mapping[str, Any] = {
        "kind": exported.kind,
        "temperature": exported.temperature,
        "quantisation": exported.quantisation,
        "steps": spec.steps,
        "rows": len(labelled),
    }
    write_atomic(spec.result, json.dumps(result).encode())


def control_result(out: Path) -> dict[str, Any] | None:
    """What a finished control left, None before."""
    found: dict[str, Any] | None = read_json(out / "control.json")
    return found
