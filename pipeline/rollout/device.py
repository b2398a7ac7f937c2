"""What one device does about an assignment: a pure state machine over one durable record.

    IDLE -> CHECK -> DOWNLOAD -> VERIFY -> STAGED -> SHADOW -> TRIAL -> CONFIRMED | ROLLED_BACK
                 any of them -> FAILED(code); CHECK, VERIFY -> INCOMPATIBLE(code)

Each function takes a record and returns the next one; the caller makes it durable (`device_file`) before it acts on it, so a
kill at any instruction is followed by the same step again. What answers is always `incumbent`, a confirmed release: the
candidate of a TRIAL becomes it only with CONFIRMED. A try is counted before the candidate is started, so that a release
that kills the machine is given up after `TRIES`. Every change of state queues a report, in order, until it is acknowledged.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from pipeline.errors import DeviceError
from pipeline.releases.target import ReleaseTarget

TRIES = 3
MAX_REINSTALLS = 10
"""Of what is wanted, because its slot was lost: flash that rots so often rots again."""
MAX_REPORTS = 64
FREE_DISK_FACTOR = 3
"""The download, the slot made of it, and room for the rest of the device."""
BYTE_BUDGET_FACTOR = 3
"""Of a bundle's length: so many bytes may have come for one assignment, and still not the whole bundle, before the device gives it up."""
DISAGREES_CHANCE = 0.001
_LEAST_MEMORY_BYTES = 128 << 20


class State(StrEnum):
    IDLE = "IDLE"
    CHECK = "CHECK"
    DOWNLOAD = "DOWNLOAD"
    VERIFY = "VERIFY"
    STAGED = "STAGED"
    SHADOW = "SHADOW"
    TRIAL = "TRIAL"
    CONFIRMED = "CONFIRMED"
    ROLLED_BACK = "ROLLED_BACK"
    FAILED = "FAILED"
    INCOMPATIBLE = "INCOMPATIBLE"


TERMINAL = frozenset({State.CONFIRMED, State.ROLLED_BACK, State.FAILED, State.INCOMPATIBLE})
RESTING = TERMINAL | {State.IDLE}


class AssignmentRolledBackError(DeviceError):
    """An assignment with a generation the device has moved past, or the same one with other content."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(found, known)
        self.found, self.known = found, known

    def __str__(self) -> str:
        return f"assignment of generation {self.found}; expected above {self.known}, or the same one again; the device keeps what it runs"


class WrongStepError(DeviceError):
    """A step was asked for that the record's state does not allow: a bug, never an input."""

    def __init__(self, step: str, state: str) -> None:
        super().__init__(step, state)
        self.step, self.state = step, state

    def __str__(self) -> str:
        return f"step {self.step} in state {self.state}; expected another order; please report this"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the newest accepted assignment asks for."""

    generation: int
    target: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A confirmed release in a slot."""

    digest: str
    student: str
    release: int


Way = Literal["delta", "packed", "whole"]
"""How a bundle comes: what changed since one that the device has, compressed, or as it is."""


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """How the bundle that was downloaded last came."""

    digest: str
    way: Way
    fetched_bytes: int
    """Over all tries, those that led nowhere included."""
    bundle_bytes: int


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """How the candidate compared with the incumbent, beside it."""

    samples: int
    agreed: int
    latency_p50_ms: float
    latency_p99_ms: float
    incumbent_latency_p50_ms: float
    memory_bytes: int
    golden_only: bool


@dataclass(frozen=True, kw_only=True)
class QueuedReport:
    """One change of state that the server has not acknowledged."""

    sequence: int
    generation: int
    digest: str
    state: State
    code: str = ""
    detail: str = ""
    shadow: Shadow | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the device has, at the moment of the check."""

    hardware: str
    free_disk_bytes: int
    free_memory_bytes: int
    runtime: str = ""
    """Version of onnxruntime."""


@dataclass(frozen=True, kw_only=True)
class DeviceRecord:
    """Everything a device must remember. One file, replaced whole."""

    incarnation: int
    """Grows each time a device starts without a record; orders reports across a loss of state."""
    sequence: int = 0
    state: State = State.IDLE
    code: str = ""
    detail: str = ""
    generation: int = 0
    """Of the newest assignment acted upon; never falls while the key that signed it is trusted."""
    generation_key: str = ""
    owner: str = ""
    """The device's name in the fleet that assigned it."""
    wanted: Wanted | None = None
    release: ReleaseTarget | None = None
    """Signed description of what is wanted, once checked."""
    tries_left: int = TRIES
    fetched_bytes: int = 0
    """For what is wanted, over all tries."""
    arrival: Arrival | None = None
    """Of the newest download, whatever became of it."""
    reinstalls: int = 0
    """Of what is wanted, since it was assigned."""
    boots: int = 0
    """Starts of the incumbent since it last came up, each written down before it."""
    incumbent: Installed | None = None
    previous: Installed | None = None
    """What ran before the incumbent; still in the other slot."""
    floors: Mapping[str, int] = field(default_factory=dict)
    """Lowest release number by student that this device still accepts."""
    signed_unix_s: int = 0
    """Newest time in anything verified: a lower bound of the real time."""
    signed_root: int = 0
    """Version of the root under which it was learnt; a newer root (2 of 3 offline keys) takes back what online keys said before it."""
    reports: tuple[QueuedReport, ...] = ()

    @property
    def digests(self) -> frozenset[str]:
        """Slots that must not be deleted."""
        held = {slot.digest for slot in (self.incumbent, self.previous) if slot is not None}
        if self.wanted is not None and self.state not in RESTING:
            held.add(self.wanted.digest)
        return frozenset(held)


def assign(record: DeviceRecord, wanted: Wanted, *, owner: str = "", key: str = "", trusted: Collection[str] = ()) -> DeviceRecord:
    """Take over a verified assignment of device `owner`. Repeating the current one changes nothing, unless its slot was lost.

    `key` signed it, `trusted` are all that may. A generation by a key that is trusted no more holds back nothing: whoever stole
    the key may have signed the highest. Nor does that of another name, from before the device was enrolled anew. Raises
    AssignmentRolledBackError.
    """
    is_mine = record.owner in ("", owner)
    is_same = is_mine and wanted == record.wanted
    is_void = not is_mine or (bool(record.generation_key) and record.generation_key not in trusted)
    if wanted.generation <= record.generation and not is_same and not is_void:
        raise AssignmentRolledBackError(wanted.generation, record.generation)
    record = record if (record.generation_key, record.owner) == (key, owner) else replace(record, generation_key=key, owner=owner)
    runs_it = record.incumbent is not None and record.incumbent.digest == wanted.digest
    if is_same:
        lost = record.state in (State.CONFIRMED, State.IDLE) and not runs_it
        return _reinstall(record, wanted) if lost else record
    record = _fresh(record, wanted)
    return _enter(record, State.CONFIRMED, detail="already running") if runs_it else _enter(record, State.CHECK)


def check(record: DeviceRecord, release: ReleaseTarget | None, machine: Machine) -> DeviceRecord:
    """CHECK -> DOWNLOAD, or why not. `release` is what verified metadata says about the wanted target, None if nothing."""
    wanted = _in(record, "check", State.CHECK)
    if release is None:
        return fail(record, "unknown_release", f"{wanted.target} is not in signed metadata")
    if release.digest != wanted.digest:
        return fail(record, "digest_not_signed", f"assigned {wanted.digest[:12]}, signed {release.digest[:12]}")
    floor = record.floors.get(release.student, 0)
    if release.release < floor:
        return fail(record, "below_security_floor", f"release {release.release}, floor {floor}")
    if release.hardware and machine.hardware not in release.hardware:
        return _incompatible(record, "hardware", f"{machine.hardware} is not one of {', '.join(release.hardware)}")
    if release.runtime and _version(machine.runtime) < _version(release.runtime):
        return _incompatible(record, "runtime", f"needs onnxruntime {release.runtime}, {machine.runtime or 'none'} is here")
    if release.memory_bytes > machine.free_memory_bytes:
        return _incompatible(record, "memory", f"needs {release.memory_bytes} bytes, {machine.free_memory_bytes} are free")
    needed = FREE_DISK_FACTOR * release.length
    if needed > machine.free_disk_bytes:
        return fail(record, "no_space", f"needs {needed} bytes, {machine.free_disk_bytes} are free")
    return _enter(replace(record, release=release), State.DOWNLOAD)


def downloaded(record: DeviceRecord, *, way: Way, detail: str = "") -> DeviceRecord:
    """DOWNLOAD -> VERIFY: all bytes are here and durable; `detail` says in words which way they came."""
    wanted = _in(record, "downloaded", State.DOWNLOAD)
    length = record.release.length if record.release is not None else 0
    arrival = Arrival(digest=wanted.digest, way=way, fetched_bytes=record.fetched_bytes, bundle_bytes=length)
    return _enter(replace(record, arrival=arrival), State.VERIFY, detail=detail)


def staged(record: DeviceRecord) -> DeviceRecord:
    """VERIFY (or DOWNLOAD, where the slot was there already) -> STAGED: a verified slot is durable."""
    _in(record, "staged", State.DOWNLOAD, State.VERIFY)
    return _enter(record, State.STAGED)


def incompatible(record: DeviceRecord, code: str, detail: str) -> DeviceRecord:
    """VERIFY -> INCOMPATIBLE: genuine, but not for this device or this version of kdpipe."""
    _in(record, "incompatible", State.CHECK, State.VERIFY)
    return _incompatible(record, code, detail)


def begin_try(record: DeviceRecord) -> DeviceRecord:
    """Count one start of the candidate, to be made durable before it; the result says what to do.

    STAGED goes to SHADOW, or straight to TRIAL where nothing runs yet. Without tries left the result is terminal.
    """
    _in(record, "begin_try", State.STAGED, State.SHADOW, State.TRIAL)
    if record.state is State.STAGED:
        if record.incumbent is None:
            record = _enter(replace(record, tries_left=TRIES), State.TRIAL, detail="no incumbent: shadow skipped")
        else:
            record = _enter(replace(record, tries_left=TRIES), State.SHADOW)
    if record.tries_left == 0:
        return fail(record, "tries_spent", f"started {TRIES} times in {record.state} without an end")
    return replace(record, tries_left=record.tries_left - 1)


def give_back_try(record: DeviceRecord) -> DeviceRecord:
    """Uncount a try that an orderly stop of the agent cut short: it says nothing about the candidate."""
    _in(record, "give_back_try", State.SHADOW, State.TRIAL)
    return replace(record, tries_left=min(record.tries_left + 1, TRIES))


def shadowed(record: DeviceRecord, evidence: Shadow) -> DeviceRecord:
    """SHADOW -> TRIAL, with the evidence in the report of TRIAL: it is sent before the switch."""
    _in(record, "shadowed", State.SHADOW)
    detail = "" if evidence.samples else "not compared: what runs takes another input, or fails on these"
    return _enter(replace(record, tries_left=TRIES), State.TRIAL, shadow=evidence, detail=detail)


def disagreement(evidence: Shadow, floor_percent: int) -> str | None:
    """Why a candidate is refused for answering otherwise than the incumbent, before it ever answers; None where it is not.

    Only where the agreement is surely below the floor (exact binomial, 1 in 1,000): a few inputs are few.
    """
    n, floor = evidence.samples, floor_percent / 100
    if not n or evidence.agreed >= floor * n:
        return None
    chance = sum(math.comb(n, k) * floor**k * (1 - floor) ** (n - k) for k in range(evidence.agreed + 1))
    if chance > DISAGREES_CHANCE:
        return None
    return f"agrees with the running model on {evidence.agreed} of {n} inputs, surely below {floor_percent} %"


def confirm(record: DeviceRecord) -> DeviceRecord:
    """TRIAL -> CONFIRMED: the candidate is the incumbent from this record on, and its security floor holds."""
    _in(record, "confirm", State.TRIAL)
    release = record.release
    if release is None:
        raise WrongStepError("confirm", "without a release")
    floors = {**record.floors, release.student: max(release.security_floor, record.floors.get(release.student, 0))}
    new = Installed(digest=release.digest, student=release.student, release=release.release)
    previous = record.incumbent if record.incumbent is not None and record.incumbent.digest != new.digest else record.previous
    return _enter(replace(record, incumbent=new, previous=previous, floors=floors), State.CONFIRMED)


def fail(record: DeviceRecord, code: str, detail: str) -> DeviceRecord:
    """Give the candidate up. After the switch (TRIAL) that is a way back, if there is something to go back to."""
    back = record.state is State.TRIAL and record.incumbent is not None
    return _enter(record, State.ROLLED_BACK if back else State.FAILED, code=code, detail=detail)


def lose_incumbent(record: DeviceRecord, code: str, detail: str) -> DeviceRecord:
    """The incumbent's slot is gone or corrupt: go back to the previous release, if it may run.

    A release under way is left alone: it may be the cure.
    """
    previous = record.previous
    if previous is not None and previous.release < record.floors.get(previous.student, 0):
        previous = None
    record = replace(record, incumbent=previous, previous=None, boots=0)
    if record.state not in RESTING:
        return record
    return _enter(record, State.ROLLED_BACK if previous is not None else State.IDLE, code=code, detail=detail)


def begin_download(record: DeviceRecord) -> DeviceRecord:
    """Before bytes are asked for: stay in DOWNLOAD, or FAILED where the assignment's byte budget is spent."""
    _in(record, "begin_download", State.DOWNLOAD)
    budget = BYTE_BUDGET_FACTOR * record.release.length if record.release is not None else 0
    if record.fetched_bytes < budget:
        return record
    return fail(record, "byte_budget", f"{record.fetched_bytes} bytes came without a whole bundle, the budget is {budget}")


def fetched(record: DeviceRecord, count: int) -> DeviceRecord:
    """Count bytes that arrived for what is wanted, whole or not."""
    return replace(record, fetched_bytes=record.fetched_bytes + count)


def memory_limit_bytes(declared_bytes: int) -> int:
    """What a model's process may hold before it counts as leaking: twice what the gate measured, and never so little that the runtime
    itself would not fit."""
    return 2 * declared_bytes + _LEAST_MEMORY_BYTES


def _fresh(record: DeviceRecord, wanted: Wanted) -> DeviceRecord:
    return replace(record, generation=wanted.generation, wanted=wanted, release=None, tries_left=TRIES, fetched_bytes=0, reinstalls=0)


def _reinstall(record: DeviceRecord, wanted: Wanted) -> DeviceRecord:
    count = record.reinstalls + 1
    if count > MAX_REINSTALLS:
        return fail(record, "slot_keeps_rotting", f"installed again {MAX_REINSTALLS} times, and its slot is lost once more")
    return _enter(replace(_fresh(record, wanted), reinstalls=count), State.CHECK, detail="slot lost: installing again")


def _incompatible(record: DeviceRecord, code: str, detail: str) -> DeviceRecord:
    return _enter(record, State.INCOMPATIBLE, code=code, detail=detail)


def _in(record: DeviceRecord, step: str, *states: State) -> Wanted:
    if record.state not in states or record.wanted is None:
        raise WrongStepError(step, record.state)
    return record.wanted


def _enter(record: DeviceRecord, state: State, *, code: str = "", detail: str = "", shadow: Shadow | None = None) -> DeviceRecord:
    report = QueuedReport(
        sequence=record.sequence + 1,
        generation=record.generation,
        digest=record.wanted.digest if record.wanted is not None else "",
        state=state,
        code=code,
        detail=detail[:500],
        shadow=shadow,
    )
    reports = (*record.reports, report)
    if len(reports) > MAX_REPORTS:
        spare = next((r for r in reports if r.state not in TERMINAL), reports[0])
        reports = tuple(r for r in reports if r is not spare)
    return replace(record, state=state, code=code, detail=detail[:500], sequence=record.sequence + 1, reports=reports)


def _version(text: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: "1.23.0rc1" is (1, 23, 0)."""
    numbers = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(number) for number in numbers[0].split(".")) if numbers else ()
