"""What a device says, applied once and in order: pure functions over a device's row.

Reports are ordered by (incarnation, sequence): a replayed or older one changes nothing, and is acknowledged again. A report
moves `progress` only where it speaks of the present assignment, by generation and digest; a failure stays a failure until
the next assignment. Everything in a body is a claim of this one device about itself, bounded before it is believed.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pipeline.errors import FleetError
from pipeline.rollout.evidence import Progress, Serving
from workers.orchestrator.roster import DeviceRow

MAX_REPORTS = 64
"""In one call."""
MAX_DETAIL = 500
MAX_NUMBER = 2**62
MAX_LATENCY_MS = 3.6e6

UNKNOWN, IDLE, CHECK, DOWNLOAD, VERIFY, STAGED, SHADOW, TRIAL, CONFIRMED, ROLLED_BACK, FAILED, INCOMPATIBLE = range(12)
"""Numbers of `kdpipe.fleet.v1.DeviceState`."""

_CODE = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
_DIGEST = re.compile(r"([0-9a-f]{64})?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,40}")

_PROGRESS = {
    IDLE: Progress.WORKING,
    CHECK: Progress.WORKING,
    DOWNLOAD: Progress.WORKING,
    VERIFY: Progress.WORKING,
    STAGED: Progress.WORKING,
    SHADOW: Progress.WORKING,
    TRIAL: Progress.SWITCHED,
    CONFIRMED: Progress.CONFIRMED,
    ROLLED_BACK: Progress.FAILED,
    FAILED: Progress.FAILED,
    INCOMPATIBLE: Progress.INCOMPATIBLE,
}


class BodyRefusedError(FleetError):
    """A device's message holds something that no agent of ours sends."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(field, found, expected)
        self.field, self.found, self.expected = field, found, expected

    def __str__(self) -> str:
        return f"{self.field}: {self.found}; expected {self.expected}"


@dataclass(frozen=True, kw_only=True)
class DeviceReport:
    """One change of state, as a device tells it."""

    incarnation: int
    sequence: int
    generation: int
    digest: str
    state: int
    failure_code: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a device says about itself at every call."""

    running_digest: str
    generation: int
    hardware: str
    agent_version: str
    clock_wrong: bool
    runtime: str = ""
    free_memory_bytes: int = 0


def check_report(report: DeviceReport) -> DeviceReport:
    """The report: its text cut to what is kept and shown, a state that only a newer agent knows as none. Raises BodyRefusedError."""
    for field, number in (("incarnation", report.incarnation), ("sequence", report.sequence), ("generation", report.generation)):
        if not 0 <= number <= MAX_NUMBER:
            raise BodyRefusedError(f"report.{field}", str(number), f"at most {MAX_NUMBER}")
    if report.incarnation == 0 or report.sequence == 0:
        raise BodyRefusedError("report", f"({report.incarnation}, {report.sequence})", "incarnation and sequence from 1")
    if report.state <= UNKNOWN:
        raise BodyRefusedError("report.state", str(report.state), "a state")
    check_digest("report.digest", report.digest)
    if not _CODE.fullmatch(report.failure_code):
        raise BodyRefusedError("report.failure_code", f"{report.failure_code!r:.80}", "a short code")
    state = report.state if report.state in _PROGRESS else UNKNOWN
    return replace(report, state=state, detail=printable(report.detail[:MAX_DETAIL]))


def check_claims(claims: Claims) -> Claims:
    """Raises BodyRefusedError."""
    check_digest("running_digest", claims.running_digest)
    if not 0 <= claims.generation <= MAX_NUMBER:
        raise BodyRefusedError("assignment_generation", str(claims.generation), f"at most {MAX_NUMBER}")
    check_name("hardware_class", claims.hardware, is_optional=True)
    check_name("agent_version", claims.agent_version, is_optional=True)
    check_name("runtime_version", claims.runtime, is_optional=True)
    if not 0 <= claims.free_memory_bytes <= MAX_NUMBER:
        raise BodyRefusedError("free_memory_bytes", str(claims.free_memory_bytes), f"at most {MAX_NUMBER}")
    return claims


def check_serving(serving: Serving) -> Serving:
    """Raises BodyRefusedError."""
    if not 0 < serving.answers <= MAX_NUMBER or not 0 <= serving.agreed <= serving.asked <= serving.answers:
        found = f"{serving.agreed} agreed of {serving.asked} asked of {serving.answers} answers"
        raise BodyRefusedError("serving", found, "each no more than the next, and some answers")
    if not 0 <= serving.confidence_mean <= 1 or not 0 <= serving.latency_p50_ms <= MAX_LATENCY_MS:  # false for NaN too
        found = f"confidence {serving.confidence_mean}, latency {serving.latency_p50_ms} ms"
        raise BodyRefusedError("serving", found, f"a confidence up to 1 and a latency up to {MAX_LATENCY_MS:g} ms")
    return serving


def check_evidence(evidence: Mapping[str, float]) -> Mapping[str, float]:
    """Shadow evidence, every figure of which somebody will compute with. Raises BodyRefusedError."""
    for name, value in evidence.items():
        if not 0 <= value <= MAX_NUMBER:  # false for NaN, too
            raise BodyRefusedError(f"shadow.{name}", f"{value}", f"a number from 0 to {MAX_NUMBER}")
    if evidence["agreed"] > evidence["samples"]:
        raise BodyRefusedError("shadow.agreed", f"{evidence['agreed']} of {evidence['samples']} samples", "at most all of them")
    return evidence


def printable(text: str) -> str:
    """The text in one line, a space for what is no character: a NUL, which PostgreSQL refuses, or what would steer a terminal."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def check_digest(field: str, digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise BodyRefusedError(field, f"{digest!r:.80}", "a hex SHA-256 or nothing")


def check_name(field: str, name: str, *, is_optional: bool = False) -> None:
    if not (is_optional and name == "") and not _NAME.fullmatch(name):
        raise BodyRefusedError(field, f"{name!r:.80}", "letters, digits, `.`, `_`, `+`, `-`, at most 41")


def claim(row: DeviceRow, claims: Claims) -> DeviceRow:
    """The row with what the device says about itself; the same row where it says nothing new."""
    changed = replace(
        row,
        running_digest=claims.running_digest,
        device_generation=max(row.device_generation, claims.generation),
        hardware=claims.hardware or row.hardware,
        agent_version=claims.agent_version or row.agent_version,
        clock_wrong=claims.clock_wrong,
        runtime=claims.runtime or row.runtime,
        free_memory_bytes=_settled_memory(row.free_memory_bytes, claims.free_memory_bytes),
    )
    return row if changed == row else changed


def _settled_memory(known: int, told: int) -> int:
    """Free memory moves all the time; only a change by a quarter is worth a write."""
    return known if told == 0 or abs(told - known) * 4 <= known else told


def take(row: DeviceRow, reports: Iterable[DeviceReport], *, now: float) -> tuple[DeviceRow, list[DeviceReport]]:
    """Apply what is new, in order; returns the row and the reports that were new."""
    fresh: list[DeviceReport] = []
    for report in sorted(reports, key=lambda report: (report.incarnation, report.sequence)):
        if (report.incarnation, report.sequence) <= (row.incarnation, row.sequence):
            continue
        fresh.append(report)
        row = replace(row, incarnation=report.incarnation, sequence=report.sequence, state=report.state)
        if report.generation == row.generation and report.digest == row.digest and row.digest:
            row = _move(row, report, now)
    return row, fresh


def _move(row: DeviceRow, report: DeviceReport, now: float) -> DeviceRow:
    if row.progress == Progress.FAILED:
        return row
    progress = _PROGRESS.get(report.state, Progress.WORKING)
    if report.state == IDLE and report.failure_code:
        progress = Progress.FAILED  # what it ran is gone, and nothing to go back to
    code = report.failure_code if progress in (Progress.FAILED, Progress.INCOMPATIBLE) else ""
    return replace(row, progress=progress, progress_s=now, failure_code=code)
