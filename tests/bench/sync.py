"""sync: what a device's call costs the orchestrator: calls per CPU-second of all its processes, over mTLS.

Each call brings a report that is durable before it is answered; in `quiet` it brings nothing new, as most do, and needs no transaction.
`warm` calls over connections that are open, `cold` opens one for each call. The orchestrator is a process of its own on SQLite; so is
`bare grpc.aio echo`, which only sends back the same bytes under the same certificates. Devices are real TLS clients with a key and a
connection each; what they cost is not counted. Ours and the echo take turns.
"""

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import grpc
import psutil

from tests.bench.compare import Comparison, compare
from tests.kit.bundles import target_of, text_bundle
from tests.kit.orchestrator_process import OrchestratorProcess
from tests.kit.wire_devices import SimulatedDevice, enrolled, private_pem
from workers.orchestrator.pki import SERVER_FILE, operator_credentials, read_pair, utc
from workers.rpc import fleet_pb2

DEVICES, WARM_CALLS, COLD_CALLS = 48, 100, 8
IDLE_DEVICES = 400
METHOD = "/kdpipe.fleet.v1.Fleet/Sync"
CHANNEL = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
AGAINST = "bare grpc.aio echo"


class Caller:
    """One device's side of the load: its certificate, and the next request of each kind."""

    def __init__(self, device: SimulatedDevice, port: int) -> None:
        self._device, self._address = device, f"127.0.0.1:{port}"
        self._credentials = grpc.ssl_channel_credentials(device.endpoints.ca_pem, private_pem(device.key), device.certificate_pem)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._address, self._credentials, options=CHANNEL)

    def request(self, *, is_news: bool) -> bytes:
        device = self._device
        reports = [device.report("CHECK")] if is_news else []
        return fleet_pb2.SyncRequest(
            reports=reports, running_digest=device.running_digest, assignment_generation=device.generation, hardware_class=device.hardware
        ).SerializeToString()

    async def warm(self, calls: int, *, is_news: bool, gate: asyncio.Barrier) -> None:
        async with self.channel() as channel:
            sync = channel.unary_unary(METHOD, None, None)
            await sync(self.request(is_news=False))
            await gate.wait()
            await gate.wait()  # between the two the CPU time is read
            for _ in range(calls):
                await sync(self.request(is_news=is_news))

    async def cold(self, calls: int) -> None:
        for _ in range(calls):
            async with self.channel() as channel:
                await channel.unary_unary(METHOD, None, None)(self.request(is_news=True))


class Echo:
    """A server that sends back what it gets, in a process of its own."""

    def __init__(self, pki: Path) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-m", "tests.bench.sync", str(pki)], stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        self.pid, self.port = self._process.pid, int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def run(*, runs: int = 5) -> list[Comparison]:
    """Cases: `warm`, `cold`, `warm quiet` (calls per CPU-second), `memory` (KiB for each connected device)."""
    with tempfile.TemporaryDirectory(prefix="kdpipe-sync-") as folder, OrchestratorProcess(Path(folder)) as server:
        server.start("--busy-sync-s", "1", "--idle-sync-s", "1")
        devices = settled(server, DEVICES)
        assert server.child is not None
        pid, port = server.child.pid, server.endpoints().fleet
        with Echo(server.pki_dir) as echo:
            found: dict[str, tuple[list[float], list[float]]] = {"warm": ([], []), "cold": ([], []), "warm quiet": ([], [])}
            for _ in range(runs):
                for of, (process, where) in enumerate(((pid, port), (echo.pid, echo.port))):
                    callers = [Caller(device, where) for device in devices]
                    found["warm"][of].append(warm(callers, process, is_news=True))
                    found["warm quiet"][of].append(warm(callers, process, is_news=False))
                    found["cold"][of].append(cold(callers, process))
            memory = [kib_per_connection(Caller(devices[0], where), process) for process, where in ((pid, port), (echo.pid, echo.port))]
        server.end(signal.SIGTERM)
    found["memory"] = (memory[:1], memory[1:])
    return [
        compare(
            name="sync",
            case=case,
            unit="KiB/device" if case == "memory" else "calls/CPU-s",
            ours=ours,
            against=AGAINST,
            theirs=theirs,
        )
        for case, (ours, theirs) in found.items()
    ]


def settled(server: OrchestratorProcess, count: int) -> list[SimulatedDevice]:
    """Enrolled devices that run the release of a rollout that is over."""
    with server.operator() as operator:
        devices = enrolled(server.endpoints(), operator.create_tokens("mail", count=count))
        bundle = text_bundle(server.folder / "made")
        release = target_of(bundle)
        operator.publish(server.trust.signer().add(release, now=utc(time.time())), bundle.path)
        for device in devices:
            device.sync()
        operator.create_rollout("r1", population="mail", target=release.path, waves=(1.0,), soak_s=0.0, deadline_s=600.0)
        operator.approve("r1")
        targets = (server.trust.repository / "metadata" / "1.targets.json").read_bytes()
        while not operator.get_rollout("r1").has_ended:
            for device in devices:
                device.sync()
                if device.assignment and not device.running_digest:
                    device.accept(targets, now_s=time.time())
                    device.confirm()
        assert operator.get_rollout("r1").confirmed == count
    for device in devices:
        device.close()
    return devices


def warm(callers: Sequence[Caller], pid: int, *, is_news: bool) -> float:
    async def load() -> float:
        gate = asyncio.Barrier(len(callers) + 1)
        calls = [asyncio.create_task(caller.warm(WARM_CALLS, is_news=is_news, gate=gate)) for caller in callers]
        await gate.wait()
        before_s = cpu_s(pid)
        await gate.wait()
        await asyncio.gather(*calls)
        return cpu_s(pid) - before_s

    return len(callers) * WARM_CALLS / asyncio.run(load())


def cold(callers: Sequence[Caller], pid: int) -> float:
    async def load() -> None:
        await asyncio.gather(*(caller.cold(COLD_CALLS) for caller in callers))

    before_s = cpu_s(pid)
    asyncio.run(load())
    return len(callers) * COLD_CALLS / (cpu_s(pid) - before_s)


def kib_per_connection(caller: Caller, pid: int) -> float:
    """Growth of resident memory with connections that stay open, each after one call."""

    async def load(measure: Callable[[], float]) -> float:
        before, channels = measure(), [caller.channel() for _ in range(IDLE_DEVICES)]
        request = caller.request(is_news=False)
        await asyncio.gather(*(channel.unary_unary(METHOD, None, None)(request) for channel in channels))
        grown = measure() - before
        await asyncio.gather(*(channel.close(None) for channel in channels))
        return grown

    process = psutil.Process(pid)
    return asyncio.run(load(lambda: process.memory_info().rss / 1024)) / IDLE_DEVICES


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and its children have taken."""
    process = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


async def serve_echo(pki: Path) -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return request

    ca_pem, _ = operator_credentials(pki)
    pair = read_pair(pki / SERVER_FILE)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("kdpipe.fleet.v1.Fleet", {"Sync": handler}),))
    certificate = [(pair.key_pem, pair.certificate_pem)]
    credentials = grpc.ssl_server_credentials(certificate, root_certificates=ca_pem, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve_echo(Path(sys.argv[1])))
