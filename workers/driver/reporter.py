"""What a person sees while a run goes on, and what `status.json` says meanwhile.

A terminal gets live bars (rich); anything else gets plain lines, a progress line at most every five seconds. Both write the same
facts to `status.json`, at most once a second, for `kdpipe status`. The process's log gets each change of stage.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pipeline.errors import KdpipeError
from workers.driver.folder import RunFolder, write_json

logger = logging.getLogger(__name__)

STOPPED = 130
PLAIN_EVERY_S = 5.0
STATUS_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """One bar: how much is done of how much, and the rest in words."""

    name: str
    done: int
    total: int
    says: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.done:,} of {self.total:,} {self.says}".rstrip()


class Reporter:
    """Tells a person and `status.json` how a run goes on. Use as a context manager."""

    def __init__(self, folder: RunFolder, *, stream: TextIO | None = None, writes_status: bool = True) -> None:
        self._folder, self._writes_status = folder, writes_status
        self._console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._status: dict[str, Any] = {"stage": "starting", "started_unix_s": time.time()}
        self._started_s = time.monotonic()
        self._plain_at_s = self._status_at_s = float("-inf")
        self._plain_line = ""
        self.stage_seconds: dict[str, float] = {}
        self._stage_began_s = self._started_s

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description:<14}"), BarColumn(bar_width=24), TextColumn("{task.fields[says]}"))
            self._bars = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()
        self._end_stage()
        ended = "done" if error is None else "stopped" if isinstance(error, KdpipeError) and error.exit_code == STOPPED else "failed"
        self._status |= {"stage": ended, "error": str(error) if error and ended == "failed" else "", "gauges": []}
        self._write_status(force=True)
        logger.info("the run ends", extra={"ended": ended, "error": str(error) if error else "", "elapsed_s": round(self.elapsed_s, 1)})

    def stage(self, name: str) -> None:
        """A new part of the run begins; its bars replace the old ones."""
        self._end_stage()
        self._clear_bars()
        self._status |= {"stage": name, "gauges": []}
        self._write_status(force=True)
        logger.info("a stage begins", extra={"stage": name})
        self.say(f"[{self.elapsed_s:6.1f} s] {name}")

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, markup=False)

    def show(self, gauges: Sequence[Gauge]) -> None:
        """The state of all bars now. Cheap; call it as often as there is news."""
        self._status["gauges"] = [asdict(gauge) for gauge in gauges]
        self._write_status(force=False)
        if self._bars:
            self._show_bars(self._bars, gauges)
        elif time.monotonic() - self._plain_at_s >= PLAIN_EVERY_S:
            line = "  " + " | ".join(str(gauge) for gauge in gauges)
            if line != self._plain_line:
                self._plain_at_s, self._plain_line = time.monotonic(), line
                self.say(line)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _show_bars(self, bars: Progress, gauges: Sequence[Gauge]) -> None:
        for gauge in gauges:
            if gauge.name not in self._tasks:
                self._tasks[gauge.name] = bars.add_task(gauge.name, total=gauge.total, says=gauge.says)
            says = f"{gauge.done:,} of {gauge.total:,} {gauge.says}"
            bars.update(self._tasks[gauge.name], completed=gauge.done, total=max(gauge.total, 1), says=says)

    def _clear_bars(self) -> None:
        for task in self._tasks.values():
            if self._bars:
                self._bars.remove_task(task)
        self._tasks.clear()

    def _end_stage(self) -> None:
        now_s = time.monotonic()
        name = str(self._status["stage"])
        self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + now_s - self._stage_began_s
        self._stage_began_s = now_s

    def _write_status(self, *, force: bool) -> None:
        now_s = time.monotonic()
        if not self._writes_status or (not force and now_s - self._status_at_s < STATUS_EVERY_S):
            return
        self._status_at_s = now_s
        with contextlib.suppress(OSError):  # a display, no fact: a full disk must not end the run
            write_json(self._folder.status_file, self._status | {"elapsed_s": round(self.elapsed_s, 1), "written_unix_s": time.time()})
