"""Rollouts, devices and dry runs as operators see them: from our values to messages. `views` is the way back, on the operator's side."""

from collections.abc import Mapping

from pipeline.rollout.comparison import Comparison
from pipeline.rollout.forecast import Forecast
from pipeline.rollout.plan import Plan
from pipeline.rollout.rollout import Member, Rollout, Stage, WavePhase
from pipeline.rollout.sequential import InstallTest
from pipeline.rollout.targeting import Reach
from workers.orchestrator.reports import MAX_NUMBER
from workers.orchestrator.roster import Arrived, DeviceRow, Served
from workers.rpc import fleet_pb2

MAX_IDS = 1_000
"""Devices of a planned wave that are named."""


def describe(rollout: Rollout, arrived: Mapping[str, Arrived]) -> fleet_pb2.Rollout:
    """A rollout, its waves, and the evidence of its gates. `arrived`: device -> how what it runs came."""
    plan, soaks = rollout.plan, rollout.phase is WavePhase.SOAK and rollout.frozen_at_s is None
    return fleet_pb2.Rollout(
        rollout_id=plan.rollout_id,
        population=plan.population,
        target=plan.target,
        digest=plan.digest,
        state=f"ROLLOUT_STATE_{rollout.state.name}",
        phase="WAVE_PHASE_UNSPECIFIED" if rollout.phase is WavePhase.NONE else f"WAVE_PHASE_{rollout.phase.name}",
        wave=rollout.wave,
        waves=len(plan.waves),
        devices=len(rollout.members) - rollout.count(Stage.LEFT),
        offered=rollout.count(Stage.OFFERED),
        confirmed=rollout.count(Stage.CONFIRMED),
        failed=rollout.count(Stage.FAILED),
        lost=rollout.count(Stage.LOST),
        incompatible=rollout.count(Stage.INCOMPATIBLE),
        reason=rollout.reason,
        halted_because=rollout.halted_because,
        arrivals=_arrivals(rollout, arrived),
        paused=rollout.paused,
        acknowledged=sum(1 for member in rollout.members.values() if member.acknowledged),
        soak_s=plan.soak_s,
        soaks_until_unix_s=rollout.soak_clock_s + plan.soak_s + rollout.stopped_s if soaks else 0.0,
        wave_views=_waves(rollout),
        install_tests=[_install_test(hardware, test) for hardware, test in sorted(rollout.tests.items())],
        comparisons=[_comparison(found) for found in rollout.comparisons],
        created_unix_s=rollout.created_s,
        changed_unix_s=rollout.last_event_s,
        head_sequence=rollout.sequence,
        head_hash=rollout.head,
    )


def describe_device(row: DeviceRow, *, last_seen_s: float, served: Served | None, arrived: Arrived | None) -> fleet_pb2.Device:
    device = fleet_pb2.Device(
        device_id=row.device_id,
        population=row.population,
        hardware_class=row.hardware,
        running_digest=row.running_digest,
        state=row.state,  # type: ignore[arg-type]  # an enum is a number on the wire
        failure_code=row.failure_code,
        last_seen_unix_s=max(row.last_seen_s, last_seen_s),
        revoked=row.is_revoked,
        labels=row.labels.split(",") if row.labels else (),
        runtime_version=row.runtime,
        free_memory_bytes=row.free_memory_bytes,
        agent_version=row.agent_version,
        assigned_target=row.target,
        assigned_digest=row.digest,
    )
    if served is not None and served.digest == row.running_digest:
        device.serving.CopyFrom(fleet_pb2.ServingStats(**vars(served.serving)))
    if arrived is not None and arrived.digest == row.running_digest:
        device.arrival.CopyFrom(fleet_pb2.Arrival(way=_way(arrived.way), fetched_bytes=arrived.fetched_bytes))
    return device


def describe_forecast(plan: Plan, forecast: Forecast, *, sync_s: float) -> fleet_pb2.PlanRolloutResponse:
    waves = [
        fleet_pb2.PlannedWave(
            wave=wave.wave,
            devices=len(wave.devices),
            bytes=wave.bytes,
            starts_s=wave.starts_s,
            ends_s=wave.ends_s,
            device_ids=wave.devices[:MAX_IDS],
        )
        for wave in forecast.waves
    ]
    left_out = [fleet_pb2.LeftOut(reason=reason, devices=count) for reason, count in forecast.left_out.items()]
    return fleet_pb2.PlanRolloutResponse(waves=waves, left_out=left_out, bundle_bytes=plan.bundle_bytes, sync_s=sync_s)


def reach_of(reach: Reach) -> fleet_pb2.WaveReach:
    return fleet_pb2.WaveReach(devices=reach) if isinstance(reach, int) else fleet_pb2.WaveReach(share=reach)


def _waves(rollout: Rollout) -> list[fleet_pb2.Wave]:
    members: dict[int, list[Member]] = {}
    for member in rollout.members.values():
        members.setdefault(member.wave, []).append(member)
    views = []
    for wave, reach in enumerate(rollout.plan.waves, start=1):
        stages = [member.stage for member in members.get(wave, ()) if member.stage is not Stage.LEFT]
        counts = {str(stage): stages.count(stage) for stage in Stage if stage is not Stage.LEFT}
        views.append(fleet_pb2.Wave(wave=wave, reach=reach_of(reach), devices=len(stages), **counts))
    return views


def _arrivals(rollout: Rollout, arrived: Mapping[str, Arrived]) -> list[fleet_pb2.ArrivalCount]:
    counts: dict[int, fleet_pb2.ArrivalCount] = {}
    for device in rollout.members:
        came = arrived.get(device)
        if came is not None and came.digest == rollout.plan.digest:
            count = counts.setdefault(came.way, fleet_pb2.ArrivalCount(way=_way(came.way)))
            count.devices += 1
            count.fetched_bytes = min(count.fetched_bytes + came.fetched_bytes, MAX_NUMBER)  # each is a claim
    return [counts[way] for way in sorted(counts)]


def _way(number: int) -> fleet_pb2.FetchWay:
    return number  # type: ignore[return-value]  # an enum is a number on the wire


def _install_test(hardware: str, test: InstallTest) -> fleet_pb2.InstallTest:
    return fleet_pb2.InstallTest(
        hardware_class=hardware,
        confirmed=test.confirmed,
        failed=test.failed,
        evidence_nats=test.evidence_nats,
        bound_nats=test.bound_nats,
    )


def _comparison(found: Comparison) -> fleet_pb2.MetricComparison:
    return fleet_pb2.MetricComparison(**{**vars(found), "metric": str(found.metric), "finding": str(found.finding)})
