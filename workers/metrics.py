"""Metrics: one hub a process, on a port of its own, and the names of the driver's series.

Units are in the names, label sets are small and known (no device id, no sample id), and every label set starts at 0, because
`increase()` misses an event that creates its series. Each process keeps one registry: Ray actors and devices send numbers to
the process that owns them, and nothing is exported twice. The orchestrator and the agents define their own series on a
`MetricsServer`; this module imports nothing that a device does not have.
"""

import threading
from collections.abc import Iterable
from typing import Self
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector, disable_created_metrics, start_http_server

from pipeline.errors import MachineError

VERDICTS = ("ships", "kept_incumbent")
DEVICE_STATES = ("waiting", "offered", "confirmed", "failed", "lost")


class MetricsPortError(MachineError):
    """The port for /metrics cannot be had."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(host, port, reason)
        self.host, self.port, self.reason = host, port, reason

    def __str__(self) -> str:
        return (
            f"metrics on {self.host}:{self.port}: {self.reason}; expected a free port of this machine; "
            f"`ss -ltnp` shows who has it, port 0 picks a free one"
        )


class MetricsServer:
    """Serves one registry as `/metrics` for Prometheus. `start`, then `close`, or use as a context manager.

    Port 0 picks a free one; `port` says which. A scrape runs in a thread of its own and never waits for the process's work.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self._host, self._wanted_port = host, port
        self._running: tuple[WSGIServer, threading.Thread] | None = None

    @property
    def port(self) -> int:
        """The port it listens on; the wanted one before `start`."""
        return int(self._running[0].server_port) if self._running else self._wanted_port

    def start(self) -> int:
        """Listen and return the port. Raises MetricsPortError."""
        if self._running:
            return self.port
        disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the series for a time of creation that nothing here asks about
        try:
            self._running = start_http_server(self._wanted_port, addr=self._host, registry=self.registry)
        except (OSError, OverflowError) as error:
            raise MetricsPortError(self._host, self._wanted_port, getattr(error, "strerror", None) or str(error)) from error
        return self.port

    def close(self) -> None:
        """Stop listening; the port is free when this returns. A second call does nothing."""
        if self._running:
            server, thread = self._running
            self._running = None
            server.shutdown()
            server.server_close()
            thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DriverMetrics:
    """The driver's series. It is told totals and states as they are; repeating one changes nothing.

    Say what the log holds before the server starts: then a restarted driver's totals of labels go on where they were, and
    Prometheus sees neither a reset nor a jump. What teachers were asked counts from 0 in each driver. `students` and
    `populations` come from the run file, so that every series is there from the first scrape.
    """

    def __init__(self, registry: CollectorRegistry, *, version: str, students: Iterable[str], populations: Iterable[str]) -> None:
        self._planned = _total(registry, "kdpipe_labels_planned", "Samples of the source that labelling has planned.")
        self._committed = _total(registry, "kdpipe_labels_committed", "Samples whose soft label is in the log.")
        self._quarantined = _total(registry, "kdpipe_labels_quarantined", "Samples set aside because they cannot be labelled.")
        self._teacher_rows = _total(registry, "kdpipe_teacher_rows", "Samples the teacher was asked about.")
        self._teacher_seconds = _total(registry, "kdpipe_teacher_seconds", "Seconds teachers spent labelling, summed over actors.")
        self._teacher_actors = Gauge("kdpipe_teacher_actors", "Teacher actors alive.", registry=registry)
        self._teachers_taken_out = _total(
            registry,
            "kdpipe_teachers_taken_out",
            "Teacher actors replaced: they answered otherwise, or much more slowly, than the others.",
        )
        self._generation = Gauge("kdpipe_generation", "Generation that the run is in.", registry=registry)
        self._loss = Gauge("kdpipe_student_loss_nats", "Latest training loss.", ["student"], registry=registry)
        self._step = Gauge("kdpipe_student_step", "Optimiser step; goes back when a trainer resumes.", ["student"], registry=registry)
        self._lag = Gauge("kdpipe_student_lag_rows", "Committed samples the live pass has yet to read.", ["student"], registry=registry)
        self._starved = Gauge("kdpipe_student_starved", "1 while the trainer waits for labels.", ["student"], registry=registry)
        self._verdicts = Counter("kdpipe_gate_verdicts", "What the gate decided.", ["student", "verdict"], registry=registry)
        self._devices = Gauge(
            "kdpipe_rollout_devices", "Devices of the current rollout by state.", ["population", "state"], registry=registry
        )
        Info("kdpipe_build", "Version of kdpipe that runs.", registry=registry).info({"version": version})
        for student in students:
            for gauge in (self._loss, self._step, self._lag, self._starved):
                gauge.labels(student)
            for verdict in VERDICTS:
                self._verdicts.labels(student, verdict)
        for population in populations:
            for state in DEVICE_STATES:
                self._devices.labels(population, state)

    def labels(self, *, planned: int, committed: int, quarantined: int) -> None:
        """Totals of the log as they stand. A total never goes back: a smaller one is ignored."""
        self._planned.raise_to(planned)
        self._committed.raise_to(committed)
        self._quarantined.raise_to(quarantined)

    def teachers(self, *, rows: int, seconds: float, actors: int, taken_out: int = 0) -> None:
        """Rows asked, seconds spent and actors taken out so far, summed over all teachers of this driver; actors alive now."""
        self._teachers_taken_out.raise_to(taken_out)
        self._teacher_rows.raise_to(rows)
        self._teacher_seconds.raise_to(seconds)
        self._teacher_actors.set(actors)

    def student(self, name: str, *, step: int, loss_nats: float | None, lag_rows: int, starved: bool) -> None:
        self._step.labels(name).set(step)
        self._lag.labels(name).set(lag_rows)
        self._starved.labels(name).set(starved)
        if loss_nats is not None:
            self._loss.labels(name).set(loss_nats)

    def generation(self, number: int) -> None:
        self._generation.set(number)

    def verdict(self, student: str, *, ships: bool) -> None:
        """One more decision of the gate; call it once a decision."""
        self._verdicts.labels(student, VERDICTS[0] if ships else VERDICTS[1]).inc()

    def rollout(self, population: str, *, offered: int, confirmed: int, failed: int, lost: int, devices: int) -> None:
        """Devices of the rollout by state; what is in none of the four is waiting. The four never overlap."""
        counts = {"offered": offered, "confirmed": confirmed, "failed": failed, "lost": lost}
        counts["waiting"] = max(0, devices - sum(counts.values()))
        for state, count in counts.items():
            self._devices.labels(population, state).set(count)


class _Total:
    """A counter that is told totals. Not for several threads at once."""

    def __init__(self, counter: Counter) -> None:
        self._counter, self._value = counter, 0.0

    def raise_to(self, total: float) -> None:
        if total > self._value:
            self._counter.inc(total - self._value)
            self._value = total


def _total(registry: CollectorRegistry, name: str, says: str) -> _Total:
    return _Total(Counter(name, says, registry=registry))
