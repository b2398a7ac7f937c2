"""Who may download how much at once, and what callers that do not read cost the others: nothing."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.kit.orchestrators import UNHURRIED, RunningOrchestrator, refused_with
from tests.kit.wire_devices import SimulatedDevice
from workers.rpc import fleet_pb2, fleet_pb2_grpc

BIG = bytes(20_000_000)
DIGEST = hashlib.sha256(BIG).hexdigest()


@pytest.fixture(name="narrow")
def _narrow(tmp_path: Path) -> Iterator[RunningOrchestrator]:
    limits = replace(UNHURRIED, downloads=3, stalled_s=0.2, download_s=20.0)
    with RunningOrchestrator(tmp_path, limits=limits) as running:
        (running.trust.repository / "bundles" / DIGEST).write_bytes(BIG)
        yield running


def unread(device: SimulatedDevice) -> Any:
    """A download of which the device takes nothing."""
    call = fleet_pb2_grpc.ArtifactStub(device.channel).Fetch(fleet_pb2.FetchRequest(digest=DIGEST), timeout=15)
    call.initial_metadata()  # the server has begun
    return call


def gets_it(device: SimulatedDevice) -> bool:
    try:
        return sum(map(len, device.fetch(DIGEST))) == len(BIG)
    except grpc.RpcError:
        return False


def test_one_device_has_two_places_and_leaves_the_rest_to_the_others(narrow: RunningOrchestrator) -> None:
    greedy, other = narrow.devices(2)
    held = [device.fetch(DIGEST) for device in (greedy, greedy)]
    for download in held:
        next(download)
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "of this device"):
        list(greedy.fetch(DIGEST))
    assert gets_it(other)
    for download in held:
        download.close()


def test_downloads_beyond_the_bound_are_told_to_come_back(narrow: RunningOrchestrator) -> None:
    devices = narrow.devices(4)
    held = [device.fetch(DIGEST) for device in devices[:3]]
    for download in held:
        next(download)
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "downloads at once"):
        list(devices[3].fetch(DIGEST))
    for download in held:
        download.close()
    narrow.wait_for(lambda: gets_it(devices[3]))


def test_callers_that_read_nothing_lose_their_places(narrow: RunningOrchestrator) -> None:
    first, second, honest = narrow.devices(3)
    calls = [unread(device) for device in (first, first, second)]
    narrow.wait_for(lambda: gets_it(honest))
    assert not any(call.done() for call in calls), "it is the server that gave the places back, not they"
    narrow.wait_for(lambda: gets_it(first))
    for call in calls:
        call.cancel()


def test_a_download_without_an_end_is_refused(narrow: RunningOrchestrator) -> None:
    (device,) = narrow.devices(1)
    for timeout_s in (None, 21.0):
        call = fleet_pb2_grpc.ArtifactStub(device.channel).Fetch(fleet_pb2.FetchRequest(digest=DIGEST), timeout=timeout_s)
        with refused_with(grpc.StatusCode.INVALID_ARGUMENT, "deadline"):
            next(call)
