"""How much one caller may ask, and what floods do to others: nothing."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.orchestrators import RunningOrchestrator, refused_with
from tests.kit.wire_devices import SimulatedDevice
from workers.orchestrator.limits import Buckets, Limits, RateExceededError
from workers.rpc import fleet_pb2, fleet_pb2_grpc


@given(gaps=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=80))
def test_no_more_than_the_burst_and_the_rate_get_through_however_they_come(gaps: list[float]) -> None:
    buckets, now_s, passed, waits = Buckets(per_s=2.0, burst=5.0), 0.0, 0, list[float]()
    for gap in gaps:
        now_s += gap
        try:
            buckets.take("d", "d", now_s=now_s)
        except RateExceededError as refused:
            waits.append(refused.wait_s)
        else:
            passed += 1
        assert passed <= 5 + 2.0 * now_s + 1e-6
    assert all(0.0 < wait_s <= 0.5 for wait_s in waits)


def test_who_waits_as_long_as_it_was_told_gets_through() -> None:
    buckets = Buckets(per_s=2.0, burst=1.0)
    buckets.take("d", "d", now_s=0.0)
    with pytest.raises(RateExceededError) as refused:
        buckets.take("d", "d", now_s=0.1)
    buckets.take("d", "d", now_s=0.1 + refused.value.wait_s + 1e-9)


def test_one_callers_flood_is_not_anothers_and_names_do_not_pile_up() -> None:
    buckets = Buckets(per_s=1.0, burst=1.0, most=10)
    for number in range(100):
        buckets.take(f"d-{number}", "d", now_s=0.0)
    assert len(buckets._filled) == 10


@pytest.fixture(name="limited")
def _limited(tmp_path: Path) -> Iterator[RunningOrchestrator]:
    limits = Limits(
        device_calls_per_s=0.5,
        device_calls_burst=8.0,
        device_reports_per_s=0.01,
        device_reports_burst=64.0,
        enrolment_failures_per_s=0.01,
        enrolment_failures_burst=4.0,
        certificates_per_s=0.01,
        certificates_burst=2.0,
        connections=4,
    )
    with RunningOrchestrator(tmp_path, limits=limits) as running:
        yield running


def flood(device: SimulatedDevice) -> None:
    for _ in range(12):
        device.sync()


def test_a_flooding_device_is_told_when_to_come_back_and_spares_the_others(limited: RunningOrchestrator) -> None:
    flooder, other = limited.devices(2)
    with pytest.raises(grpc.RpcError) as refusal:
        flood(flooder)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    hints = {pair.key: pair.value for pair in refusal.value.trailing_metadata()}
    hint = hints["grpc-retry-pushback-ms"]
    assert 0 < int(hint) <= 2001
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED):
        flooder.metadata("timestamp.json")
    other.sync()


def test_a_device_with_news_without_end_is_told_to_wait_and_what_it_sends_again_costs_it_nothing(limited: RunningOrchestrator) -> None:
    (device,) = limited.devices(1)
    told = [device.report("CHECK") for _ in range(60)]
    device.sync(*told)
    device.sync(*told)
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "so many reports"):
        device.sync(*[device.report("CHECK") for _ in range(5)])
    assert device.sync(*told).acknowledged_sequence == 60


def test_a_device_whose_calls_pile_up_leaves_room_for_the_others(orchestrator: RunningOrchestrator) -> None:
    greedy, other = orchestrator.devices(2)
    stubs = [fleet_pb2_grpc.FleetStub(device.channel) for device in (greedy, other)]
    writer, may_go_on = orchestrator.orchestrator._writer, threading.Event()
    assert writer is not None
    held = writer.submit(lambda session: may_go_on.wait(20))
    news = [fleet_pb2.SyncRequest(reports=[greedy.report("CHECK")], hardware_class="x86") for _ in range(9)]
    calls = [stubs[0].Sync.future(request, timeout=20) for request in news]
    orchestrator.wait_for(lambda: any(call.done() for call in calls))
    assert [call.code() for call in calls if call.done()] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    stubs[1].Sync(fleet_pb2.SyncRequest(hardware_class="x86"), timeout=5)
    may_go_on.set()
    held.result(20)
    assert sum(call.exception() is None for call in calls) == 8
    greedy.sync()


def test_guessing_tokens_ends_soon(limited: RunningOrchestrator) -> None:
    (token,) = limited.operator.create_tokens("mail")
    for _ in range(4):
        with refused_with(grpc.StatusCode.PERMISSION_DENIED):
            SimulatedDevice(limited.endpoints).enrol("guess")
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "fails to enrol"):
        SimulatedDevice(limited.endpoints).enrol(token)


def test_one_device_cannot_have_certificates_made_without_end(limited: RunningOrchestrator) -> None:
    """Neither by renewing nor by enrolling again with its used token; both are its right, and each costs a signature."""
    (token,) = limited.operator.create_tokens("mail")
    device = SimulatedDevice(limited.endpoints)
    for ask in (lambda: device.enrol(token), device.renew):
        ask()
        ask()
        with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "calls too often"):
            ask()
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "calls too often"):
        device.renew()
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "calls too often"):
        device.renew()
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "this address fails"):
        device.renew()


def test_connections_beyond_the_bound_do_not_get_in_and_those_that_are_stay(limited: RunningOrchestrator) -> None:
    first = limited.devices(4)
    for device in first:
        device.sync()
    token = limited.operator.create_tokens("mail")[0]
    late = SimulatedDevice(limited.endpoints)
    late.enrol(token)
    with refused_with(grpc.StatusCode.UNAVAILABLE):
        late.sync()
    first[0].sync()
    first[1].close()
    limited.wait_for(lambda: _gets_in(late))
    late.close()


def _gets_in(device: SimulatedDevice) -> bool:
    device.close()
    try:
        device.sync()
    except grpc.RpcError:
        return False
    return True


def test_a_fleet_that_comes_back_at_once_is_answered_at_the_rate_that_is_configured(tmp_path: Path) -> None:
    with RunningOrchestrator(tmp_path, limits=Limits(syncs_per_s=0.01)) as running:
        (first,) = running.devices(1)
        with pytest.raises(grpc.RpcError) as refusal:
            running.devices(1)
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        hints = {pair.key: pair.value for pair in refusal.value.trailing_metadata()}
        assert int(hints["grpc-retry-pushback-ms"]) >= 1000
        first.metadata("timestamp.json")
