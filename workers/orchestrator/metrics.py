"""What the orchestrator shows to Prometheus: `kdpipe_orchestrator_*`, every label set from 0, no device id anywhere."""

from collections import Counter as Tally
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from pipeline.rollout.rollout import RolloutState
from workers.metrics import MetricsServer
from workers.orchestrator.roster import Roster
from workers.rpc import fleet_pb2

PORTS = ("fleet", "teacher", "enrolment", "operator")
"""As calls are counted: what devices ask the teacher counts by itself, though it comes on the port of Fleet."""
CODES = (
    "OK",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "OUT_OF_RANGE",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNAVAILABLE",
    "INTERNAL",
)
METADATA = ("root", "targets", "releases", "snapshot", "timestamp")
STATES = tuple(name.removeprefix("DEVICE_STATE_").lower() for name in fleet_pb2.DeviceState.keys())  # noqa: SIM118 no dict


OUTCOMES = ("answered", "refused", "limited", "down", "late", "off", "failed")
"""Of a question to the teacher."""
ASK_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class OrchestratorMetrics:
    """The series, on the registry of one `MetricsServer`."""

    def __init__(self, server: MetricsServer) -> None:
        of: dict[str, Any] = {"registry": server.registry, "namespace": "kdpipe", "subsystem": "orchestrator"}
        self._calls = Counter("calls_total", "gRPC calls answered, by port and status.", ("port", "code"), **of)
        self._reports = Counter("reports_total", "Device reports taken, by state.", ("state",), **of)
        self._syncs = Counter("syncs_total", "Syncs answered, by whether they needed a transaction.", ("durable",), **of)
        self._enrolments = Counter("enrolments_total", "Devices enrolled.", **of)
        self._publications = Counter("publications_total", "Releases published.", **of)
        self._served = Counter("bundle_bytes_total", "Bundle bytes sent to devices.", **of)
        self._transaction_s = Histogram("transaction_seconds", "Time of one transaction, commit included.", **of)
        self._transaction_jobs = Histogram(
            "transaction_jobs", "Calls that shared one transaction.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256), **of
        )
        self._tick_s = Histogram("tick_seconds", "Time of one pass of the wave engine.", **of)
        self._devices = Gauge("devices", "Devices by their last reported state; revoked ones are not counted.", ("state",), **of)
        self._rollouts = Gauge("rollouts", "Rollouts in memory by state.", ("state",), **of)
        self._broken = Gauge("broken_rollouts", "Rollouts that nobody leads, because their log is not what was written.", **of)
        self._timestamp_expires = Gauge("timestamp_expires_unix_seconds", "When the signed timestamp ends.", **of)
        self._asks = Counter("asks_total", "Questions of devices to the teacher, by what became of them.", ("outcome",), **of)
        self._ask_s = Histogram("ask_seconds", "Time from a question to the teacher's answer, waiting included.", buckets=ASK_S, **of)
        self._ask_rows = Histogram("ask_rows", "Questions that the teacher was asked together.", buckets=(1, 2, 4, 8, 16, 32, 64), **of)
        self._teacher_up = Gauge("teacher_up", "Whether a teacher answers questions.", **of)
        self._teacher_restarts = Counter("teacher_restarts_total", "Teachers that were started again.", **of)
        self._metadata_expires = Gauge("metadata_expires_unix_seconds", "When signed release metadata ends, by role.", ("role",), **of)
        self._clock_ahead = Gauge("clock_ahead_seconds", "This replica's clock minus the database's; 0 on SQLite.", **of)
        # Looking a series up costs as much as counting, and these are counted at every call.
        self._call_of = {(port, code): self._calls.labels(port, code) for port in PORTS for code in CODES}
        self._report_of = [self._reports.labels(state) for state in STATES]
        self._sync_of = {True: self._syncs.labels("yes"), False: self._syncs.labels("no")}
        for role in METADATA:
            self._metadata_expires.labels(role)
        for state in STATES:
            self._devices.labels(state)
        for rollout_state in RolloutState:
            self._rollouts.labels(str(rollout_state))
        for outcome in OUTCOMES:
            self._asks.labels(outcome)

    def answered(self, port: str, code: str) -> None:
        self._call_of[port, code if code in CODES else "INTERNAL"].inc()

    def synced(self, *, durable: bool) -> None:
        self._sync_of[durable].inc()

    def reported(self, state: int) -> None:
        self._report_of[state].inc()

    def asked(self, outcome: str, seconds: float) -> None:
        self._asks.labels(outcome).inc()
        if outcome == "answered":
            self._ask_s.observe(seconds)

    def asked_together(self, rows: int) -> None:
        self._ask_rows.observe(rows)

    def teacher_is(self, *, up: bool) -> None:
        self._teacher_up.set(up)

    def teacher_restarted(self) -> None:
        self._teacher_restarts.inc()

    def enrolled(self) -> None:
        self._enrolments.inc()

    def published(self) -> None:
        self._publications.inc()

    def served(self, count_bytes: int) -> None:
        self._served.inc(count_bytes)

    def committed(self, jobs: int, seconds: float) -> None:
        self._transaction_jobs.observe(jobs)
        self._transaction_s.observe(seconds)

    def ticked(self, seconds: float) -> None:
        self._tick_s.observe(seconds)

    def timestamp_expires(self, unix_s: float) -> None:
        self._timestamp_expires.set(unix_s)

    def metadata_expires(self, expiries: Mapping[str, datetime]) -> None:
        for role, expires in expiries.items():
            self._metadata_expires.labels(role).set(expires.timestamp())

    def clock_ahead(self, seconds: float) -> None:
        self._clock_ahead.set(seconds)

    def count(self, roster: Roster) -> None:
        """Set the gauges from what is known now."""
        self._broken.set(len(roster.broken))
        states = Tally(STATES[row.state] for row in list(roster.devices.values()) if not row.is_revoked)
        for state in STATES:
            self._devices.labels(state).set(states[state])
        rollouts = Tally(str(rollout.state) for rollout in list(roster.rollouts.values()))
        for rollout_state in RolloutState:
            self._rollouts.labels(str(rollout_state)).set(rollouts[str(rollout_state)])
