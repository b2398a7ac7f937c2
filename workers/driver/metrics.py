"""The driver's `/metrics`: numbers of the run that is going on, told by its stages."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from pipeline.config import RunFile
from pipeline.labels.store import open_store
from pipeline.labels.verify import summarise
from workers.board import TrainingProgress
from workers.driver.folder import RunFolder, write_json
from workers.labelling import LabellingProgress
from workers.metrics import DriverMetrics, MetricsServer


class RunMetrics:
    """The server and the series; its port is in DIR/metrics.json while the run lives."""

    def __init__(self, run: RunFile) -> None:
        self._server = MetricsServer(host=run.metrics.host, port=run.metrics.port)
        self.series = DriverMetrics(
            self._server.registry, version=version("kdpipe"), students=run.students, populations=run.fleet.populations
        )
        self._note: Path | None = None
        self._labelling: LabellingProgress | None = None
        self._ended_rows, self._ended_s, self._ended_taken_out = 0, 0.0, 0

    def start(self, folder: RunFolder, *, labels: str) -> None:
        """Say what the log in the store `labels` holds, then listen. Raises MetricsPortError if the port is taken, LabelStoreError."""
        log = summarise(open_store(labels))
        self.series.labels(planned=log.rows_planned, committed=log.rows_committed, quarantined=log.rows_quarantined)
        self._note = folder.root / "metrics.json"
        write_json(self._note, {"port": self._server.start()})

    def tell(self, labelling: LabellingProgress | None, students: Mapping[str, TrainingProgress]) -> None:
        """How labelling and training stand now."""
        labelled = 0
        if labelling:
            labelled = labelling.generation_rows
            self.series.labels(planned=labelling.rows_planned, committed=labelling.rows_committed, quarantined=labelling.rows_quarantined)
            self._tell_teachers(labelling)
        for name, p in students.items():
            lag_rows = max(0, labelled - p.live_rows)
            self.series.student(name, step=p.step, loss_nats=p.loss, lag_rows=lag_rows, starved=p.starved)

    def _tell_teachers(self, now: LabellingProgress) -> None:
        """Each labelling run counts from 0, and there is one a generation and one a repair: add up those that have ended."""
        before = self._labelling
        if before and _another_run(before, now):
            self._ended_rows += before.teacher_calls
            self._ended_s += before.teacher_s
            self._ended_taken_out += before.teachers_taken_out
        self._labelling = now
        rows, seconds = self._ended_rows + now.teacher_calls, self._ended_s + now.teacher_s
        self.series.teachers(rows=rows, seconds=seconds, actors=now.actors, taken_out=self._ended_taken_out + now.teachers_taken_out)

    def close(self) -> None:
        self._server.close()
        if self._note:
            self._note.unlink(missing_ok=True)


def _another_run(before: LabellingProgress, now: LabellingProgress) -> bool:
    """Within one run the rows never go down, and its first commit stays the first."""
    return now.teacher_calls < before.teacher_calls or before.first_commit_unix_s not in (None, now.first_commit_unix_s)
