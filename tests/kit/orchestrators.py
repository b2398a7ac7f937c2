"""An orchestrator in this process, on real ports, with a clock that the test moves."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import grpc

from pipeline.releases.keys import ONLINE
from pipeline.releases.target import ReleaseTarget
from tests.kit.bundles import Trust, target_of, text_bundle
from tests.kit.wire_devices import Endpoints, SimulatedDevice, enrolled
from workers.orchestrator.client import Operator
from workers.orchestrator.limits import Limits
from workers.orchestrator.operator_file import OperatorFile, write_operator_file
from workers.orchestrator.pacing import Pacing
from workers.orchestrator.pki import operator_credentials, utc
from workers.orchestrator.ports import Ports
from workers.orchestrator.server import Orchestrator, Settings

UNHURRIED = Limits(
    device_calls_per_s=10_000.0,
    device_calls_burst=10_000.0,
    device_reports_burst=10_000.0,
    certificates_burst=10_000.0,
    enrolment_failures_burst=10_000.0,
    asks_per_s=10_000.0,
    syncs_per_s=10_000.0,
)
"""Tests call as fast as they can; those about limits ask for some."""


class MovableClock:
    """Unix time that runs, and that a test can set forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class RunningOrchestrator:
    """Starts in a thread of its own; a context manager. `restart` keeps folder and ports."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.clock = folder, MovableClock()
        self.trust = Trust.make(folder, now=utc(self.clock()))
        self._settings = replace(
            Settings(
                folder=folder / "fleet",
                repository=self.trust.repository,
                keys=self.trust.keys / ONLINE,
                pacing=Pacing(busy_s=0.05, idle_s=0.1),
                limits=UNHURRIED,
            ),
            **settings,
        )
        self._devices: list[SimulatedDevice] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for device in self._devices:
            device.close()
        self.stop()

    def start(self) -> None:
        started: Future[Ports] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(started)), name="orchestrator", daemon=True)
        self._thread.start()
        self.ports = started.result(timeout=20)
        ca_pem, credentials = operator_credentials(self._settings.folder / "pki")
        ports = self.ports
        self.endpoints = Endpoints(host="127.0.0.1", fleet=ports.fleet, enrolment=ports.enrolment, operator=ports.operator, ca_pem=ca_pem)
        self.operator = Operator(
            address=f"127.0.0.1:{ports.operator}", ca_pem=ca_pem, key_pem=credentials.key_pem, certificate_pem=credentials.certificate_pem
        )

    def stop(self) -> None:
        if self._loop is not None:
            self.operator.close()
            self._loop.call_soon_threadsafe(self._told.set)
            self._thread.join(timeout=20)
            assert not self._thread.is_alive(), "the orchestrator stops when told"
            self._loop = None

    def operator_file(self, path: Path) -> Path:
        """For verbs of the command line."""
        ca_pem, credentials = operator_credentials(self.folder / "fleet" / "pki")
        endpoint = f"{self.endpoints.host}:{self.endpoints.operator}"
        write_operator_file(path, OperatorFile(endpoint=endpoint, ca_pem=ca_pem, credentials=credentials))
        return path

    def restart(self) -> None:
        self.stop()
        self.start()

    def devices(self, count: int, *, population: str = "mail", hardware: str = "x86") -> list[SimulatedDevice]:
        """Enrolled devices that have called once."""
        made = enrolled(self.endpoints, self.operator.create_tokens(population, count=count), hardware=hardware)
        self._devices += made
        for device in made:
            device.sync()
        return made

    def release(self, number: int = 1, **changes: Any) -> ReleaseTarget:
        """Sign a tiny release and publish it through the operator's port."""
        bundle = text_bundle(self.folder / "made", release=number, seed=number)
        target = target_of(bundle, release=number, **changes)
        self.operator.publish(self.trust.signer().add(target, now=utc(self.clock())), bundle.path)
        return target

    def roll_out(self, target: ReleaseTarget, *, rollout_id: str = "r1", population: str = "mail", **changes: Any) -> None:
        """Create and approve a rollout of one wave and no soak, unless told otherwise."""
        plan: dict[str, Any] = {"waves": (1.0,), "soak_s": 0.0, "deadline_s": 60.0, **changes}
        self.operator.create_rollout(rollout_id, population=population, target=target.path, **plan)
        self.operator.approve(rollout_id)

    @property
    def targets_metadata(self) -> bytes:
        return (self.trust.repository / "metadata" / "1.targets.json").read_bytes()

    def follow(self, device: SimulatedDevice, *, until: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Sync, as often as the server asks, until `until`."""
        end_s = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < end_s, "nothing came in time"
            device.sync()
            time.sleep(0.01)

    def offered(self, *devices: SimulatedDevice, digest: str, timeout_s: float = 10.0) -> list[SimulatedDevice]:
        """Devices that the orchestrator has assigned `digest`; at least one, waited for."""
        end_s = time.monotonic() + timeout_s
        while True:
            found = []
            for device in devices:
                device.sync()
                if device.assignment and device.accept(self.targets_metadata, now_s=self.clock()).digest == digest:
                    found.append(device)
            if found:
                return found
            assert time.monotonic() < end_s, "no device was offered the release in time"
            time.sleep(0.01)

    def wait_for(self, holds: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end_s, "it did not become true in time"
            time.sleep(0.01)

    async def _main(self, started: "Future[Ports]") -> None:
        self._told = asyncio.Event()
        self.orchestrator = Orchestrator(self._settings, clock=self.clock)
        try:
            ports = await self.orchestrator.start()
        except Exception as error:  # noqa: BLE001 handed to the test's thread
            started.set_exception(error)
            return
        self._loop = asyncio.get_running_loop()
        started.set_result(ports)
        await self._told.wait()
        await self.orchestrator.stop()


class refused_with:
    """The call inside must fail with this status."""

    def __init__(self, code: grpc.StatusCode, match: str = "") -> None:
        self.code, self.match = code, match

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        assert isinstance(error, grpc.RpcError), "the call was accepted"
        assert (error.code(), self.match in (error.details() or "")) == (self.code, True), f"{error.code()}: {error.details()}"
        return True
