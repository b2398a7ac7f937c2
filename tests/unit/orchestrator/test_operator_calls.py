"""Dry runs, selectors, labels, evidence and logs over the wire, with devices that speak the protocol."""

import grpc
import pytest

from pipeline.rollout.audit import audit, head_of
from pipeline.rollout.comparison import Margins
from pipeline.rollout.rollout import RolloutState
from pipeline.rollout.targeting import Selector
from tests.kit.orchestrators import RunningOrchestrator
from tests.kit.wire_devices import SimulatedDevice
from workers.orchestrator.client import OrchestratorRefusedError
from workers.orchestrator.wishes import Wish
from workers.rpc import fleet_pb2, fleet_pb2_grpc


def wish(target: str, **changes: object) -> Wish:
    values: dict[str, object] = {"rollout_id": "r1", "population": "mail", "waves": (2, 1.0), "soak_s": 0.0, "deadline_s": 60.0}
    return Wish(target=target, **{**values, **changes})  # type: ignore[arg-type]


def tell(device: SimulatedDevice, **fields: object) -> None:
    fleet_pb2_grpc.FleetStub(device.channel).Sync(fleet_pb2.SyncRequest(hardware_class=device.hardware, **fields), timeout=10)  # type: ignore[arg-type]


def test_a_dry_run_names_the_devices_that_the_rollout_then_reaches_and_changes_nothing(orchestrator: RunningOrchestrator) -> None:
    devices = {device.device_id: device for device in orchestrator.devices(5)}
    target = orchestrator.release()
    found = orchestrator.operator.plan(wish(target.path))
    assert orchestrator.operator.plan(wish(target.path)) == found
    assert [wave.devices for wave in found.waves] == [2, 3]
    assert found.waves[0].bytes == 2 * target.length
    assert orchestrator.operator.get_fleet().rollouts == []
    orchestrator.operator.create(wish(target.path))
    orchestrator.operator.approve("r1")
    canaries = {name for name, device in devices.items() if device.sync().assignment}
    assert canaries == set(found.waves[0].device_ids)


def test_a_dry_run_of_a_release_that_is_not_there_is_refused(orchestrator: RunningOrchestrator) -> None:
    with pytest.raises(OrchestratorRefusedError) as refused:
        orchestrator.operator.plan(wish("releases/small-000009.kdpb"))
    assert refused.value.code == "NOT_FOUND"


def test_labels_runtime_and_memory_decide_whom_a_rollout_is_for(orchestrator: RunningOrchestrator) -> None:
    plain, labelled, small, old = orchestrator.devices(4)
    operator = orchestrator.operator
    for device in (labelled, small, old):
        assert operator.label(device.device_id, put=["ring=beta"]).labels == ("ring=beta",)
    for device, runtime, memory in (
        (plain, "1.23.2", 1 << 30),
        (labelled, "1.23.2", 1 << 30),
        (small, "1.23.2", 1 << 20),
        (old, "1.9.0", 1 << 30),
    ):
        tell(device, runtime_version=runtime, free_memory_bytes=memory)
    target = orchestrator.release()
    selector = Selector(labels=("ring=beta",), runtime_at_least="1.20", free_memory_bytes=1 << 28)
    found = operator.plan(wish(target.path, selector=selector))
    assert found.waves[0].device_ids == (labelled.device_id,)
    assert sum(found.left_out.values()) == 3
    operator.create(wish(target.path, selector=selector))
    operator.approve("r1")
    assert [bool(device.sync().assignment) for device in (plain, labelled, small, old)] == [False, True, False, False]


def test_a_label_is_replaced_taken_away_and_kept_over_a_restart(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    operator = orchestrator.operator
    assert operator.label(device.device_id, put=["ring=beta", "site=oslo"]).labels == ("ring=beta", "site=oslo")
    assert operator.label(device.device_id, put=["ring=stable"], remove=["site"]).labels == ("ring=stable",)
    orchestrator.restart()
    (found,) = orchestrator.operator.get_fleet().devices
    assert found.labels == ("ring=stable",)
    for bad in ("ring", "Ring=beta", "ring=a,b", "=x", "ring="):
        with pytest.raises(OrchestratorRefusedError):
            orchestrator.operator.label(device.device_id, put=[bad])


def test_free_memory_that_moves_a_little_costs_no_write(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    for memory, kept in ((1000, 1000), (1100, 1000), (900, 1000), (500, 500), (0, 500)):
        tell(device, free_memory_bytes=memory)
        (found,) = orchestrator.operator.get_fleet().devices
        assert found.free_memory_bytes == kept


def test_how_a_device_answers_is_kept_for_the_release_that_answered(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    stats = fleet_pb2.ServingStats(answers=7, confidence_mean=0.75, latency_p50_ms=2.0, asked=3, agreed=2)
    tell(device, running_digest="a" * 64, serving=stats)
    (found,) = orchestrator.operator.get_fleet().devices
    assert found.serving is not None
    assert (found.serving.answers, found.serving.agreed) == (7, 2)
    orchestrator.restart()
    (again,) = orchestrator.operator.get_fleet().devices
    assert again.serving == found.serving, "a restart forgets nothing"
    tell(device, running_digest="b" * 64)
    (found,) = orchestrator.operator.get_fleet().devices
    assert found.serving is None


@pytest.mark.parametrize(
    "poisoned",
    [
        {"answers": 0}, {"answers": 1, "asked": 2}, {"answers": 3, "asked": 1, "agreed": 2}, {"answers": 1, "confidence_mean": 1.5},
        {"answers": 1, "confidence_mean": float("nan")}, {"answers": 1, "latency_p50_ms": -1.0},
        {"answers": 1, "latency_p50_ms": float("inf")},
    ],
)  # fmt: skip
def test_poisoned_metrics_are_refused(shared: RunningOrchestrator, poisoned: dict[str, float]) -> None:
    (device,) = shared.devices(1)
    with pytest.raises(grpc.RpcError) as refused:
        tell(device, serving=fleet_pb2.ServingStats(**poisoned))  # type: ignore[arg-type]
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "changes",
    [
        {"waves": (1.0, 2)}, {"waves": (5, 3, 1.0)}, {"waves": (0, 1.0)}, {"waves": (0.5,)}, {"waves": (0.5, 0.2, 1.0)},
        {"waves": (float("nan"), 1.0)},
        {"selector": Selector(labels=("x",))}, {"selector": Selector(labels=tuple(f"a{n}=b" for n in range(33)))},
        {"selector": Selector(runtime_at_least="new")}, {"in_flight_share": 1.5}, {"bytes_per_s": -1.0}, {"bytes_per_s": float("inf")},
        {"margins": Margins(latency_ratio=0.5)}, {"margins": Margins(agreement_drop=float("nan"))},
    ],
)  # fmt: skip
def test_an_order_that_cannot_be_meant_is_refused(shared: RunningOrchestrator, changes: dict[str, object]) -> None:
    with pytest.raises(OrchestratorRefusedError) as refused:
        shared.operator.plan(wish("releases/small-000001.kdpb", **changes))
    assert refused.value.code == "INVALID_ARGUMENT"


def test_the_log_over_the_wire_is_the_one_that_the_server_acts_on(orchestrator: RunningOrchestrator) -> None:
    devices = orchestrator.devices(3)
    target = orchestrator.release()
    orchestrator.roll_out(target)
    for device in orchestrator.offered(*devices, digest=target.digest):
        device.confirm()
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").state is RolloutState.COMPLETED)
    view = orchestrator.operator.get_rollout("r1")
    rollout = audit("r1", orchestrator.operator.events("r1"))
    assert (head_of(rollout).sequence, head_of(rollout).hash) == (view.head_sequence, view.head_hash)
    assert (rollout.state, view.confirmed) == (view.state, 3)
    assert [(wave.reach, wave.devices, wave.confirmed) for wave in view.wave_views] == [("100 %", 3, 3)]
    with pytest.raises(OrchestratorRefusedError):
        orchestrator.operator.events("r9")
