"""What is known about devices at one moment: the input of every rollout decision. The orchestrator fills it from reports."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Progress(enum.StrEnum):
    """How far a device says it is with its present assignment."""

    SILENT = "silent"
    WORKING = "working"
    SWITCHED = "switched"
    """The release is live on the device, on trial."""
    CONFIRMED = "confirmed"
    FAILED = "failed"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a device's running model answered lately, as the device tells it: over its last ten minutes at most."""

    answers: int
    confidence_mean: float
    """Of the class that it answered with."""
    latency_p50_ms: float
    asked: int = 0
    """Answers that it could hold against the teacher's."""
    agreed: int = 0


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """One device. `progress` speaks of its present assignment only; a report about another generation or digest is no part of it."""

    hardware: str
    is_revoked: bool = False
    last_seen_s: float = 0.0
    """0 where it enrolled and never called."""
    target: str = ""
    """Target path of its present assignment; empty where it has none."""
    digest: str = ""
    """Bundle digest of its present assignment."""
    progress: Progress = Progress.SILENT
    progress_s: float = 0.0
    failure_code: str = ""
    running_digest: str = ""
    labels: frozenset[str] = frozenset()
    """Each `name=value`."""
    runtime: str = ""
    """Version of its inference runtime; empty where it does not tell."""
    free_memory_bytes: int = 0
    serving: Serving | None = None
    """None where its running model answered nothing lately, or did not tell."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The devices of one population, as the server knows them."""

    devices: Mapping[str, DeviceFacts]
    listening_since_s: float
    """Since when this server process hears devices: silence before that says nothing."""
    present_within_s: float = 30.0
    """A device that called within this time is there to take an offer."""
    sync_s: float = 0.0
    """How often devices are told to call."""
    release_gone: str = ""
    """Why the release on its way can no longer be given to anybody, as a sentence; empty while it is in force."""

    def is_present(self, device: str, now: float) -> bool:
        facts = self.devices.get(device)
        return facts is not None and not facts.is_revoked and facts.last_seen_s > 0 and now - facts.last_seen_s <= self.present_within_s

    def is_lost(self, device: str, now: float, *, after_s: float) -> bool:
        """Silent for longer than `after_s`, and than three calls that it should have made."""
        return self.silent_s(device, now) > max(after_s, 3 * self.sync_s)

    def silent_s(self, device: str, now: float) -> float:
        """How long the device has been silent while somebody listened."""
        return now - max(self.devices[device].last_seen_s, self.listening_since_s)
