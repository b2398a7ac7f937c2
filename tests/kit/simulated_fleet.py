"""Many simulated devices: each a TLS client of its own with a certificate of its own, speaking the real protocol; no model, no slots.

They run in processes of their own (`python -m tests.kit.simulated_fleet`), so that what the load costs is told apart from what the server
costs. A device waits between two calls as an agent does, by the same function; takes an assignment, fetches the metadata that a TUF client
would and the bundle, makes the reports of an install, and calls when an agent does: before the switch, and with the verdict. It does not
verify signatures and runs no model: that is the device's own CPU, which is not what is measured here. It is told how long an install
takes.
"""

import asyncio
import base64
import contextlib
import json
import random
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kit.wire_devices import OPTIONS, private_pem, signing_request
from workers.edge.pauses import FIRST_SYNC_S, pause_s
from workers.rpc import fleet_pb2, fleet_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
CALL_S = 20.0
ENROL_AT_ONCE = 8
TELL_EVERY_S = 0.5
BEFORE_SWITCH = ("CHECK", "DOWNLOAD", "VERIFY", "STAGED", "SHADOW", "TRIAL")
SHADOW_SHARE = 0.6
"""Of the time of an install, before the switch: 30 of 50 seconds of an agent that gets no live inputs."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one load process is to play."""

    fleet_address: str
    enrolment_address: str
    ca_pem: str
    tokens: list[str]
    first_within_s: float
    """First calls are spread over this time."""
    seed: int = 1


@dataclass
class Device:
    """One simulated device's memory."""

    key_pem: bytes
    certificate_pem: bytes
    device_id: str
    generation: int = 0
    digest: str = ""
    running: str = ""
    sequence: int = 0
    queue: list[fleet_pb2.Report] = field(default_factory=list)
    before: str = ""
    """What it ran before the last switch."""
    todo: str = ""
    """`fetch`, `verdict`, or nothing."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Role -> name of the file that it holds."""
    interval_s: float = FIRST_SYNC_S
    failures: int = 0


class NotThereError(Exception):
    """The repository has no such metadata."""


class Crowd:
    """The devices of one process."""

    def __init__(self, load: Load) -> None:
        self.load, self.rng = load, random.Random(load.seed)
        self.counts: Counter[str] = Counter()
        self.devices: list[Device] = []
        self.failing = 0.0
        """Share of installs that fail, after the switch."""
        self.install_s = 0.0
        """How long one takes."""

    async def run(self) -> None:
        await self._enrol()
        self._tell("enrolled")
        lives = [asyncio.create_task(self._live(device)) for device in self.devices]
        telling = asyncio.create_task(self._keep_telling())
        while line := await asyncio.to_thread(sys.stdin.readline):  # until the parent closes it
            told = json.loads(line)
            self.failing, self.install_s = told["failing"], told["install_s"]
        for task in (*lives, telling):
            task.cancel()
        await asyncio.gather(*lives, telling, return_exceptions=True)
        self._tell("ended")

    async def _enrol(self) -> None:
        credentials = grpc.ssl_channel_credentials(self.load.ca_pem.encode())
        room = asyncio.Semaphore(ENROL_AT_ONCE)
        async with grpc.aio.secure_channel(self.load.enrolment_address, credentials, options=OPTIONS) as channel:
            stub = fleet_pb2_grpc.EnrollmentStub(channel)

            async def enrol(token: str) -> Device:
                async with room:
                    key = ec.generate_private_key(ec.SECP256R1())
                    request = fleet_pb2.EnrollRequest(
                        token=token, csr_der=signing_request(key), hardware_class="simulated", agent_version="1"
                    )
                    answer = await stub.Enroll(request, timeout=60)
                    return Device(key_pem=private_pem(key), certificate_pem=answer.certificate_pem, device_id=answer.device_id)

            self.devices = list(await asyncio.gather(*map(enrol, self.load.tokens)))

    async def _live(self, device: Device) -> None:
        await asyncio.sleep(self.rng.random() * self.load.first_within_s)
        credentials = grpc.ssl_channel_credentials(self.load.ca_pem.encode(), device.key_pem, device.certificate_pem)
        options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 5_000))
        async with grpc.aio.secure_channel(self.load.fleet_address, credentials, options=options) as channel:
            fleet, artifact = fleet_pb2_grpc.FleetStub(channel), fleet_pb2_grpc.ArtifactStub(channel)
            while True:
                await self._turn(device, fleet, artifact)
                await asyncio.sleep(pause_s(device.interval_s, failures=device.failures, rng=self.rng))

    async def _turn(self, device: Device, fleet: Any, artifact: Any) -> None:
        try:
            answer = await self._sync(device, fleet)
            if answer.assignment and self._accepts(device, answer.assignment):
                device.todo = "fetch"
            if device.todo:
                await self._install(device, fleet, artifact)
            device.interval_s, device.failures = answer.next_sync_s, 0
        except grpc.aio.AioRpcError as error:
            self.counts[f"error {error.code().name}"] += 1
            device.failures += 1

    async def _sync(self, device: Device, fleet: Any) -> fleet_pb2.SyncResponse:
        request = fleet_pb2.SyncRequest(
            reports=device.queue,
            running_digest=device.running,
            assignment_generation=device.generation,
            hardware_class="simulated",
            agent_version="1",
        )
        self.counts["tried"] += 1
        answer: fleet_pb2.SyncResponse = await fleet.Sync(request, timeout=CALL_S)
        self.counts["synced"] += 1
        device.queue = [report for report in device.queue if report.sequence > answer.acknowledged_sequence]
        return answer

    def _accepts(self, device: Device, envelope: bytes) -> bool:
        assignment = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
        if assignment["generation"] <= device.generation:
            return False
        device.generation, device.digest = assignment["generation"], assignment["digest"]
        return device.digest != device.running

    async def _install(self, device: Device, fleet: Any, artifact: Any) -> None:
        """What is to be done for the newest assignment; what a call that failed left is done at the next turn."""
        if device.todo == "fetch":
            await self._refresh(device, fleet)
            async for part in artifact.Fetch(fleet_pb2.FetchRequest(digest=device.digest), timeout=CALL_S):
                self.counts["bytes"] += len(part.chunk)
            await asyncio.sleep(self.install_s * SHADOW_SHARE)
            device.before, device.running = device.running, device.digest
            self.counts["switched"] += 1
            for state in BEFORE_SWITCH:
                self._report(device, state)
            device.todo = "verdict"
            await self._sync(device, fleet)
            await asyncio.sleep(self.install_s * (1 - SHADOW_SHARE))
        device.todo = ""
        if self.rng.random() < self.failing:
            device.running = device.before
            self._report(device, "ROLLED_BACK", code="SIMULATED")
        else:
            self._report(device, "CONFIRMED")
        await self._sync(device, fleet)

    async def _refresh(self, device: Device, fleet: Any) -> None:
        """The files that a TUF client asks for: whether there is a newer root, the timestamp, and what is new below it."""
        with contextlib.suppress(NotThereError):
            await self._metadata(fleet, "2.root.json")
        meta = (await self._metadata(fleet, "timestamp.json"))["meta"]
        for role in ("snapshot", "targets", "releases"):
            name = f"{meta[f'{role}.json']['version']}.{role}.json"
            if device.metadata.get(role) == name and role != "snapshot":
                continue
            signed = await self._metadata(fleet, name)
            device.metadata[role] = name
            meta = signed["meta"] if role == "snapshot" else meta

    async def _metadata(self, fleet: Any, name: str) -> dict[str, Any]:
        """What is signed in a metadata file. Raises NotThereError."""
        try:
            answer = await fleet.GetMetadata(fleet_pb2.GetMetadataRequest(name=name, max_bytes=1 << 20), timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotThereError(name) from error
            raise
        self.counts["metadata"] += 1
        signed: dict[str, Any] = json.loads(answer.content)["signed"]
        return signed

    def _report(self, device: Device, state: str, *, code: str = "") -> None:
        device.sequence += 1
        report = fleet_pb2.Report(
            incarnation=1,
            sequence=device.sequence,
            generation=device.generation,
            digest=device.digest,
            state=f"DEVICE_STATE_{state}",
            failure_code=code,
        )
        device.queue.append(report)

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            self._tell("living")

    def _tell(self, what: str) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        facts = {"what": what, "at_s": time.time(), "cpu_s": usage.ru_utime + usage.ru_stime, "rss_bytes": rss, "counts": dict(self.counts)}
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


class LoadProcess:
    """One load process, from its parent's side; a context manager."""

    def __init__(self, load: Load, *, log: Path) -> None:
        self._load, self._log_path = load, log
        self.told: list[dict[str, Any]] = []
        """What it has said so far, oldest first."""
        self._hearing: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._log = self._log_path.open("wb")
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "tests.kit.simulated_fleet"]
        self._child = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=self._log)
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(asdict(self._load)).encode() + b"\n")
        self._child.stdin.flush()
        return self

    def wait_enrolled(self) -> None:
        """Wait until its devices are enrolled; from then on what it says is heard by a thread."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, f"a load process ended: {self._log_path.read_text()[-1000:]}"
        self.told.append(json.loads(line))
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._hearing.start()

    def _hear(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self.told.append(json.loads(line))

    def play(self, *, failing: float = 0.0, install_s: float = 0.0) -> None:
        """From now on installs take so long, and this share of them fails, after the switch."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"failing": failing, "install_s": install_s}).encode() + b"\n")
        self._child.stdin.flush()

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._hearing is not None:
            self._hearing.join()
        self._log.close()


def main() -> None:
    load = Load(**json.loads(sys.stdin.readline()))
    asyncio.run(Crowd(load).run())


if __name__ == "__main__":
    main()
