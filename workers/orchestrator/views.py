"""What the orchestrator says, as values of the operator's side; `describe` is the way there."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.rollout.events import Event, stored_event
from pipeline.rollout.rollout import RolloutState, WavePhase
from workers.rpc import fleet_pb2


@dataclass(frozen=True, kw_only=True)
class WaveView:
    """One wave of a rollout, and where its devices stand."""

    wave: int
    reach: str
    """"10 devices" or "5 %", counted from the first device on."""
    devices: int
    pending: int
    offered: int
    confirmed: int
    failed: int
    lost: int
    incompatible: int
    withdrawn: int


@dataclass(frozen=True, kw_only=True)
class InstallTestView:
    """The sequential test of one hardware class: it halts once the evidence reaches the bound."""

    hardware: str
    confirmed: int
    failed: int
    evidence_nats: float
    bound_nats: float


@dataclass(frozen=True, kw_only=True)
class ComparisonView:
    """One metric of devices of a wave against devices not yet offered the release, at the last gate."""

    metric: str
    finding: str
    wave_devices: int
    control_devices: int
    wave_median: float
    control_median: float
    p_value: float
    alpha: float


@dataclass(frozen=True, kw_only=True)
class ArrivalView:
    """Devices to which their release came one way."""

    way: str
    """"delta", "packed" or "whole"; "unknown" for one that this kdpipe does not know."""
    fetched_bytes: int
    """Of all of them."""
    devices: int = 1


@dataclass(frozen=True, kw_only=True)
class RolloutView:
    """A rollout as the orchestrator describes it."""

    rollout_id: str
    population: str
    target: str
    digest: str
    state: RolloutState
    phase: WavePhase
    wave: int
    waves: int
    devices: int
    offered: int
    confirmed: int
    failed: int
    lost: int
    incompatible: int
    acknowledged: int
    paused: bool
    reason: str
    halted_because: str
    soak_s: float
    soaks_until_unix_s: float
    created_unix_s: float
    changed_unix_s: float
    head_sequence: int
    head_hash: str
    wave_views: Sequence[WaveView]
    install_tests: Sequence[InstallTestView]
    comparisons: Sequence[ComparisonView]
    arrivals: Sequence[ArrivalView] = ()

    @property
    def has_ended(self) -> bool:
        """Nothing moves any more without an operator."""
        return self.state not in (RolloutState.DRAFT, RolloutState.APPROVED, RolloutState.RUNNING, RolloutState.REVERTING)


@dataclass(frozen=True, kw_only=True)
class ServingView:
    """How a device's model answered lately."""

    answers: int
    confidence_mean: float
    latency_p50_ms: float
    asked: int
    agreed: int


@dataclass(frozen=True, kw_only=True)
class DeviceView:
    """A device as the orchestrator knows it."""

    device_id: str
    population: str
    hardware: str
    running_digest: str
    state: str
    failure_code: str
    last_seen_unix_s: float
    is_revoked: bool
    labels: Sequence[str] = ()
    runtime: str = ""
    free_memory_bytes: int = 0
    agent_version: str = ""
    assigned_target: str = ""
    assigned_digest: str = ""
    serving: ServingView | None = None
    arrival: ArrivalView | None = None
    """How what it runs came."""


@dataclass(frozen=True, kw_only=True)
class FleetView:
    """Every device and the rollouts that are in memory, oldest event first."""

    devices: Sequence[DeviceView]
    rollouts: Sequence[RolloutView]


@dataclass(frozen=True, kw_only=True)
class PlannedWaveView:
    """One wave of a dry run."""

    wave: int
    devices: int
    bytes: int
    starts_s: float
    ends_s: float
    device_ids: Sequence[str]
    """The first 1,000."""


@dataclass(frozen=True, kw_only=True)
class PlanView:
    """A dry run: times are after approval, at the earliest; bytes if every device fetches the whole bundle."""

    waves: Sequence[PlannedWaveView]
    left_out: dict[str, int]
    bundle_bytes: int
    sync_s: float


def rollout_view(rollout: fleet_pb2.Rollout) -> RolloutView:
    phase = fleet_pb2.WavePhase.Name(rollout.phase).removeprefix("WAVE_PHASE_").lower()
    return RolloutView(
        rollout_id=rollout.rollout_id,
        population=rollout.population,
        target=rollout.target,
        digest=rollout.digest,
        state=RolloutState(fleet_pb2.RolloutState.Name(rollout.state).removeprefix("ROLLOUT_STATE_").lower()),
        phase=WavePhase.NONE if phase == "unspecified" else WavePhase(phase),
        wave=rollout.wave,
        waves=rollout.waves,
        devices=rollout.devices,
        offered=rollout.offered,
        confirmed=rollout.confirmed,
        failed=rollout.failed,
        lost=rollout.lost,
        incompatible=rollout.incompatible,
        acknowledged=rollout.acknowledged,
        paused=rollout.paused,
        reason=rollout.reason,
        halted_because=rollout.halted_because,
        soak_s=rollout.soak_s,
        soaks_until_unix_s=rollout.soaks_until_unix_s,
        created_unix_s=rollout.created_unix_s,
        changed_unix_s=rollout.changed_unix_s,
        head_sequence=rollout.head_sequence,
        head_hash=rollout.head_hash,
        wave_views=tuple(map(_wave, rollout.wave_views)),
        install_tests=tuple(map(_install_test, rollout.install_tests)),
        comparisons=tuple(map(_comparison, rollout.comparisons)),
        arrivals=tuple(
            ArrivalView(way=_way(count.way), fetched_bytes=count.fetched_bytes, devices=count.devices) for count in rollout.arrivals
        ),
    )


def device_view(device: fleet_pb2.Device) -> DeviceView:
    told = device.serving
    return DeviceView(
        device_id=device.device_id,
        population=device.population,
        hardware=device.hardware_class,
        running_digest=device.running_digest,
        state=fleet_pb2.DeviceState.Name(device.state).removeprefix("DEVICE_STATE_").lower(),
        failure_code=device.failure_code,
        last_seen_unix_s=device.last_seen_unix_s,
        is_revoked=device.revoked,
        labels=tuple(device.labels),
        runtime=device.runtime_version,
        free_memory_bytes=device.free_memory_bytes,
        agent_version=device.agent_version,
        assigned_target=device.assigned_target,
        assigned_digest=device.assigned_digest,
        serving=ServingView(
            answers=told.answers,
            confidence_mean=told.confidence_mean,
            latency_p50_ms=told.latency_p50_ms,
            asked=told.asked,
            agreed=told.agreed,
        )
        if device.HasField("serving")
        else None,
        arrival=ArrivalView(way=_way(device.arrival.way), fetched_bytes=device.arrival.fetched_bytes)
        if device.HasField("arrival")
        else None,
    )


def plan_view(plan: fleet_pb2.PlanRolloutResponse) -> PlanView:
    waves = [
        PlannedWaveView(
            wave=wave.wave,
            devices=wave.devices,
            bytes=wave.bytes,
            starts_s=wave.starts_s,
            ends_s=wave.ends_s,
            device_ids=tuple(wave.device_ids),
        )
        for wave in plan.waves
    ]
    left_out = {reason.reason: reason.devices for reason in plan.left_out}
    return PlanView(waves=tuple(waves), left_out=left_out, bundle_bytes=plan.bundle_bytes, sync_s=plan.sync_s)


def event_of(rollout_id: str, event: fleet_pb2.RolloutEvent) -> Event:
    """Raises RolloutLogBrokenError for one that does not read."""
    return stored_event(rollout_id, sequence=event.sequence, at_s=event.at_s, kind=event.kind, facts=event.facts_json, hash=event.hash)


def _wave(wave: fleet_pb2.Wave) -> WaveView:
    count = wave.reach.devices
    counted = f"{count} device{'' if count == 1 else 's'}"
    reach = counted if wave.reach.WhichOneof("reach") == "devices" else f"{100 * wave.reach.share:g} %"
    return WaveView(
        wave=wave.wave,
        reach=reach,
        devices=wave.devices,
        pending=wave.pending,
        offered=wave.offered,
        confirmed=wave.confirmed,
        failed=wave.failed,
        lost=wave.lost,
        incompatible=wave.incompatible,
        withdrawn=wave.withdrawn,
    )


def _way(way: int) -> str:
    known = {number: name.removeprefix("FETCH_WAY_").lower() for name, number in fleet_pb2.FetchWay.items() if number}
    return known.get(way, "unknown")


def _install_test(test: fleet_pb2.InstallTest) -> InstallTestView:
    return InstallTestView(
        hardware=test.hardware_class,
        confirmed=test.confirmed,
        failed=test.failed,
        evidence_nats=test.evidence_nats,
        bound_nats=test.bound_nats,
    )


def _comparison(found: fleet_pb2.MetricComparison) -> ComparisonView:
    return ComparisonView(
        metric=found.metric,
        finding=found.finding,
        wave_devices=found.wave_devices,
        control_devices=found.control_devices,
        wave_median=found.wave_median,
        control_median=found.control_median,
        p_value=found.p_value,
        alpha=found.alpha,
    )
