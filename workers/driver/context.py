"""What every stage of a run is handed: the checked run file, the folder, and the few things that live as long as the run."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.config import RunFile
from pipeline.releases.keys import Unlock
from pipeline.teachers import Teacher, load_teacher
from workers.driver.children import Children
from workers.driver.cluster import Cluster
from workers.driver.control import Controls
from workers.driver.folder import RunFolder
from workers.driver.metrics import RunMetrics
from workers.driver.records import sources_of
from workers.driver.reporter import Reporter
from workers.driver.stopping import Stop, StoppedError


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Shared by the stages of one run; owned by `workers.driver.run`."""

    run: RunFile
    base: Path
    folder: RunFolder
    reporter: Reporter
    children: Children
    cluster: Cluster
    controls: Controls
    metrics: RunMetrics
    stop: Stop
    command: str
    """What the user typed, for messages that say how to go on."""
    unlock: Unlock = field(default_factory=Unlock, repr=False)
    """What opens the repository's keys."""

    @cached_property
    def teacher(self) -> Teacher:
        """The run's teacher in this process, loaded when it is first asked for: it answers for the samples that judge."""
        return load_teacher(self.run.teacher, classes=self.run.classes, base=self.base)

    @cached_property
    def sources(self) -> dict[str, str]:
        """What names the code of each student: of when the run began, which is what this process has imported."""
        return sources_of(self.run, self.base)

    def check_stop(self) -> None:
        """Raises StoppedError once the user asked to stop."""
        if self.stop.is_set():
            raise StoppedError(self.command)
