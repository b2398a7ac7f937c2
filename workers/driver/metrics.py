"""The driver's `/metrics`: numbers of the run that is going on, told by its stages."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from pipeline.config import RunFile
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

    def start(self, folder: RunFolder) -> None:
        """Listen. Raises MetricsPortError where the wanted port is taken."""
        self._note = folder.root / "metrics.json"
        write_json(self._note, {"port": self._server.start()})

    def tell(self, labelling: LabellingProgress | None, students: Mapping[str, TrainingProgress]) -> None:
        """How labelling and training stand now."""
        labelled = 0
        if labelling:
            labelled = labelling.generation_rows
            self.series.labels(planned=labelling.rows_planned, committed=labelling.rows_committed, quarantined=labelling.rows_quarantined)
            self.series.teachers(rows=labelling.teacher_calls, seconds=labelling.teacher_s, actors=labelling.actors)
        for name, p in students.items():
            lag_rows = max(0, labelled - p.live_rows)
            self.series.student(name, step=p.step, loss_nats=p.loss, lag_rows=lag_rows, starved=p.starved)

    def close(self) -> None:
        self._server.close()
        if self._note:
            self._note.unlink(missing_ok=True)
