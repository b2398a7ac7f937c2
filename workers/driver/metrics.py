"""The driver's `/metrics`: numbers of the run that is going on, told by its stages."""

from importlib.metadata import version
from pathlib import Path

from pipeline.config import RunFile
from workers.driver.folder import RunFolder, write_json
from workers.metrics import DriverMetrics, MetricsServer


class RunMetrics:
    """The server and the series; its port is in DIR/metrics.json while the run lives."""

    def __init__(self, run: RunFile) -> None:
        self._server = MetricsServer(host=run.fleet.host, port=run.fleet.metrics_port)
        self.series = DriverMetrics(
            self._server.registry, version=version("kdpipe"), students=run.students, populations=run.fleet.populations
        )
        self._note: Path | None = None

    def start(self, folder: RunFolder) -> None:
        """Listen. Raises MetricsPortError where the wanted port is taken."""
        self._note = folder.root / "metrics.json"
        write_json(self._note, {"port": self._server.start()})

    def close(self) -> None:
        self._server.close()
        if self._note:
            self._note.unlink(missing_ok=True)
