"""A whole rollout to simulated devices, an outage, and a build that always fails. Results are of simulated devices, and say so.

Each device is a TLS client of its own over real gRPC (`tests.kit.simulated_fleet`); server and load share this machine, and the CPU of
each is told apart. `--rows` is the number of devices.
"""

import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from pipeline.rollout.rollout import RolloutState
from tests.bench.compare import Comparison, alone
from tests.kit.bundles import Trust, target_of, text_bundle
from tests.kit.simulated_fleet import Load, LoadProcess
from workers.orchestrator.client import Operator
from workers.orchestrator.pacing import Pacing
from workers.orchestrator.pki import operator_credentials, utc
from workers.orchestrator.views import RolloutView

ROOT = Path(__file__).resolve().parents[2]
WAVES = (0.01, 0.1, 1.0)
LOADS = 2
OUTAGE_S = 60.0
TOKENS_AT_ONCE = 1_000
ROLLOUT_WITHIN_S = 1_800.0
SWITCHED_MOST = 5 + 10
INSTALL_S, IN_FLIGHT_SHARE = 50.0, 0.5
"""Of an agent as it comes: 30 s for live inputs, 20 s of trial."""

T = TypeVar("T")


class Server:
    """The orchestrator as a process; started again on the same folder and ports."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trust = folder, Trust.make(folder, now=utc(time.time()))
        self.cpu_before_s = 0.0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "workers.orchestrator", "--dir", str(self.folder / "fleet")]
        command += ["--repository", str(self.trust.repository), "--keys", str(self.trust.keys / "online")]
        log = (self.folder / "server.log").open("ab")
        self.child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
        log.close()
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        assert line, (self.folder / "server.log").read_text()[-2000:]
        self.ports: dict[str, Any] = json.loads(line)
        self.process = psutil.Process(self.child.pid)

    def end(self, number: int) -> None:
        self.cpu_before_s = self.cpu_s()
        self.child.send_signal(number)
        self.child.wait(timeout=60)

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return self.cpu_before_s + times.user + times.system

    def rss_bytes(self) -> int:
        return int(self.process.memory_info().rss)


class Bench:
    """A server, its load, and what the load says."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.devices, self.server = devices, Server(folder)
        self.empty_rss_bytes = self.server.rss_bytes()
        self.operator = Operator.open(folder / "fleet")
        self.operator.wait_ready()
        self.loads: list[LoadProcess] = []
        self._folder = folder

    def enter(self, stack: ExitStack) -> None:
        ca_pem = operator_credentials(self._folder / "fleet" / "pki")[0].decode()
        tokens: list[str] = []
        while len(tokens) < self.devices:
            tokens += self.operator.create_tokens("mail", count=min(TOKENS_AT_ONCE, self.devices - len(tokens)))
        for number in range(LOADS):
            load = Load(
                fleet_address=f"127.0.0.1:{self.server.ports['fleet_port']}",
                enrolment_address=f"127.0.0.1:{self.server.ports['enrolment_port']}",
                ca_pem=ca_pem,
                tokens=tokens[number::LOADS],
                first_within_s=max(2.0, self.devices / 100),
                seed=number,
            )
            self.loads.append(stack.enter_context(LoadProcess(load, log=self._folder / f"load-{number}.log")))
        for load_process in self.loads:
            load_process.wait_enrolled()

    def count(self, what: str) -> int:
        return sum(load.told[-1]["counts"].get(what, 0) for load in self.loads)

    def load_cpu_s(self) -> float:
        return sum(load.told[-1]["cpu_s"] for load in self.loads)

    def load_rss_bytes(self) -> int:
        return sum(load.told[-1]["rss_bytes"] for load in self.loads)

    def peak_per_s(self, since_s: float, *, what: str = "synced", over_s: float = 1.0) -> float:
        """Most of `what` in any `over_s` seconds since then, over all load processes, by the times that they tell."""
        moments: dict[int, int] = {}
        for load in self.loads:
            told = list(load.told)
            for earlier, later in itertools.pairwise(told):
                if later["at_s"] > since_s:
                    slot = int((later["at_s"] - since_s) / over_s)
                    moments[slot] = moments.get(slot, 0) + later["counts"].get(what, 0) - earlier["counts"].get(what, 0)
        return max(moments.values(), default=0) / over_s

    def release(self, number: int) -> str:
        bundle = text_bundle(self._folder / "made", release=number, seed=number)
        target = target_of(bundle, release=number)
        self.operator.publish(self.server.trust.signer().add(target, now=utc(time.time())), bundle.path)
        return target.path

    def roll_out(self, number: int, *, failing: float = 0.0, install_s: float = 0.0, **order: Any) -> tuple[RolloutView, float]:
        """The rollout once it rests, and how long that took."""
        for load in self.loads:
            load.play(failing=failing, install_s=install_s)
        target, began_s = self.release(number), time.monotonic()
        order = {"waves": WAVES, "soak_s": 1.0, "deadline_s": ROLLOUT_WITHIN_S, **order}
        self.operator.create_rollout(f"r{number}", population="mail", target=target, **order)
        self.operator.approve(f"r{number}")
        view = wait_for(lambda: _rested(self.operator.get_rollout(f"r{number}")), ROLLOUT_WITHIN_S)
        return view, time.monotonic() - began_s


def run(rows: int = 10_000, *, outage_s: float = OUTAGE_S) -> list[Comparison]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = stack.enter_context(opened(Path(folder), rows))
        bench.enter(stack)
        wait_for(lambda: bench.count("synced") >= rows, 600)
        return [*_whole(bench), *_with_time(bench), *_outage(bench, outage_s), *_failing(bench)]


@contextmanager
def opened(folder: Path, devices: int) -> Iterator[Bench]:
    bench = Bench(folder, devices)
    try:
        yield bench
    finally:
        bench.operator.close()
        bench.server.end(signal.SIGTERM)


def _whole(bench: Bench) -> list[Comparison]:
    cpu_s, load_cpu_s, synced = bench.server.cpu_s(), bench.load_cpu_s(), bench.count("synced")
    view, took_s = bench.roll_out(1)
    assert (view.state, view.confirmed) == (RolloutState.COMPLETED, bench.devices), view.reason
    server_s, load_s, syncs = bench.server.cpu_s() - cpu_s, bench.load_cpu_s() - load_cpu_s, bench.count("synced") - synced
    rss = (bench.server.rss_bytes() - bench.empty_rss_bytes) / bench.devices
    return [
        _told(bench, "whole rollout, 3 waves", took_s, "s"),
        _told(bench, "server CPU during it", server_s, "s"),
        _told(bench, "load CPU during it", load_s, "s"),
        _told(bench, "Sync calls during it", syncs, "calls"),
        _told(bench, "metadata files during it", bench.count("metadata"), "calls"),
        _told(bench, "server memory per connected device", rss / 1000, "kB"),
        _told(bench, "load memory per device", bench.load_rss_bytes() / bench.devices / 1000, "kB"),
    ]


def _with_time(bench: Bench) -> list[Comparison]:
    """The same where an install takes as long as an agent's does, and half the fleet may be at it at once."""
    share = WAVES[0]
    view, took_s = bench.roll_out(
        2, install_s=INSTALL_S, in_flight_first=max(1, round(share * bench.devices)), in_flight_share=IN_FLIGHT_SHARE
    )
    assert (view.state, view.confirmed) == (RolloutState.COMPLETED, bench.devices), view.reason
    return [_told(bench, f"whole rollout, installs of {INSTALL_S:g} s, {IN_FLIGHT_SHARE:.0%} of the fleet at once", took_s, "s")]


def _outage(bench: Bench, outage_s: float) -> list[Comparison]:
    """The server is killed, stays away, and comes back to devices that all missed it.

    What it answers stays under the configured rate because it refuses the rest, so what devices ask of it is told beside it.
    """
    failed = bench.count("tried") - bench.count("synced")
    bench.server.end(signal.SIGKILL)
    time.sleep(outage_s)
    since_s, synced = time.time(), bench.count("synced")
    bench.server.start()
    interval_s = max(Pacing.idle_s, Pacing().least_interval_s(bench.devices))
    wait_for(lambda: bench.count("synced") - synced >= bench.devices, 600)
    time.sleep(2 * interval_s)
    peaks = []
    for over_s in (1, 5):
        away = f"after {outage_s:g} s away, over {over_s} s"
        answered, asked = (bench.peak_per_s(since_s, what=what, over_s=over_s) for what in ("synced", "tried"))
        peaks.append(_told(bench, f"peak of Sync calls answered {away}", answered, "calls/s", most=Pacing.calls_per_s))
        peaks.append(_told(bench, f"peak of Sync calls asked {away}", asked, "calls/s", most=Pacing.calls_per_s))
    failed = bench.count("tried") - bench.count("synced") - failed
    return [*peaks, _told(bench, "calls that failed meanwhile", failed, "calls")]


def _failing(bench: Bench) -> list[Comparison]:
    switched = bench.count("switched")
    view, took_s = bench.roll_out(3, failing=1.0)
    assert view.state is RolloutState.HALTED, view.reason
    time.sleep(4 * max(Pacing.busy_s, Pacing().least_interval_s(bench.devices)))  # whoever was offered it has called again
    touched = bench.count("switched") - switched
    return [
        _told(bench, "devices that switched to a build that always fails", touched, "devices", most=SWITCHED_MOST),
        _told(bench, "until it halted", took_s, "s"),
    ]


def _told(bench: Bench, case: str, figure: float, unit: str, *, most: float | None = None) -> Comparison:
    name = f"fleet, {bench.devices:,} simulated devices"
    if most is None:
        return alone(name=name, case=case, figure=figure, unit=unit, n=1)
    return Comparison(
        name=name, case=case, figure=figure, unit=unit, against="at most", against_figure=most, ratio=figure / most, n=1, spread=None
    )


def _rested(view: RolloutView) -> RolloutView | None:
    return view if view.has_ended else None


def wait_for(look: Callable[[], T | None], within_s: float) -> T:
    """What `look` says once it says something. Looks four times a second."""
    end_s = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end_s, "it did not come to that in time"
        time.sleep(0.25)
    return found
