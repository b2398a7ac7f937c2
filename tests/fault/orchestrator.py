"""SIGKILL the orchestrator in the middle of rollouts, again and again, and freeze one that leads; nothing is lost or done twice.

    python -m tests.fault.orchestrator --kills 50 --seed 1

`kills`: one orchestrator on SQLite kills itself at a drawn point of its work (`tests.kit.killed_orchestrator`), is started again, and so on
over as many rollouts as that takes. Devices keep a report until it is acknowledged, send it again though it is, and in any order; in
each rollout one is wiped and starts with a new incarnation. At the end each report is in the database once, no device was offered a
release twice in a rollout, no generation of an assignment ever meant two things, and every rollout completed with every device.

`two leaders`: two replicas on PostgreSQL; the one that leads gets SIGSTOP for longer than its lease while a rollout is under way. The other
one leads on and completes it. The first one is woken, and its write is refused.
"""

import argparse
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from sqlalchemy import select

from pipeline.errors import FleetError
from pipeline.rollout.rollout import RolloutState
from tests.kit.bundles import target_of, text_bundle
from tests.kit.killed_orchestrator import POINTS
from tests.kit.orchestrator_process import OrchestratorProcess
from tests.kit.postgres import postgres
from tests.kit.wire_devices import SimulatedDevice, enrolled
from workers.orchestrator import tables
from workers.orchestrator.client import Operator
from workers.orchestrator.pki import utc
from workers.orchestrator.report_log import KEPT_OF_A_DEVICE

DEVICES = 6
WAVES = (0.2, 0.5, 1.0)
STATES = ("CHECK", "DOWNLOAD", "VERIFY", "STAGED", "TRIAL", "CONFIRMED")
PATIENCE_S = 180.0
PASSES = {"assignment signed": DEVICES}
"""A point is hit at one of its first so many times, or its first 25; a process passes most of them that often in one rollout."""
LEASE_S = 1.0
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class HonestDevice:
    """Keeps reports until they are acknowledged; otherwise as bad a caller as the network makes of an honest one."""

    def __init__(self, wire: SimulatedDevice, chance: random.Random) -> None:
        self.wire, self._chance = wire, chance
        self._unheard: list[Any] = []
        self._heard: list[Any] = []
        self.made: Counter[int] = Counter()
        """Reports, by incarnation."""
        self.acknowledged: Counter[int] = Counter()
        self.meaning: dict[int, str] = {}
        """Digest by generation, of every assignment it got."""

    def step(self, targets: bytes) -> bool:
        """One call; False where nobody answered."""
        old = self._chance.sample(self._heard, min(2, len(self._heard)))
        reports = [*self._unheard, *old]
        self._chance.shuffle(reports)
        try:
            answer = self.wire.sync(*reports)
        except grpc.RpcError as error:
            if error.code() not in AWAY:
                raise
            self.wire.close()
            return False
        heard = (answer.acknowledged_incarnation, answer.acknowledged_sequence)
        done = [report for report in self._unheard if (report.incarnation, report.sequence) <= heard]
        self._heard += done
        self.acknowledged.update(report.incarnation for report in done)
        self._unheard = [report for report in self._unheard if (report.incarnation, report.sequence) > heard]
        if answer.assignment:
            self._obey(targets)
        return True

    @property
    def owes(self) -> bool:
        """It has said something that nobody has acknowledged."""
        return bool(self._unheard)

    def wipe(self) -> None:
        """It forgets all but its identity, what it had not yet said included."""
        wire = self.wire
        wire.incarnation, wire.sequence, wire.generation, wire.assigned_digest, wire.running_digest = wire.incarnation + 1, 0, 0, "", ""
        self._unheard.clear()

    def _obey(self, targets: bytes) -> None:
        wire, before = self.wire, self.wire.generation
        assignment = wire.accept(targets, now_s=time.time())
        known = self.meaning.setdefault(assignment.generation, assignment.digest)
        assert known == assignment.digest, f"generation {assignment.generation} meant two things"
        if assignment.generation > before and assignment.digest != wire.running_digest:
            wire.running_digest = assignment.digest
            self._unheard += [wire.report(state) for state in STATES]
            self.made[wire.incarnation] += len(STATES)


class Campaign:
    """Devices and rollouts at one orchestrator."""

    def __init__(self, server: OrchestratorProcess, chance: random.Random) -> None:
        self._server, self.chance = server, chance
        with server.operator() as operator:
            wires = enrolled(server.endpoints(), operator.create_tokens("mail", count=DEVICES))
        self.devices = [HonestDevice(wire, chance) for wire in wires]
        for wire in wires:
            wire.sync()
        self.rollouts: list[str] = []
        self.targets = (server.trust.repository / "metadata" / "1.targets.json").read_bytes()

    def begin(self, operator: Operator) -> str:
        """Publish a release, create and approve its rollout; may be repeated until it works."""
        number = len(self.rollouts) + 1
        bundle = text_bundle(self._server.folder / f"made{number}", release=number, seed=number)
        release = target_of(bundle, release=number)
        metadata = self._server.trust.signer().add(release, now=utc(time.time()))

        def order() -> None:
            operator.publish(metadata, bundle.path if bundle.path.exists() else None)
            operator.create_rollout(
                f"r{number}", population="mail", target=release.path, waves=WAVES, soak_s=0.1, deadline_s=600.0, lost_after_s=300.0
            )
            operator.approve(f"r{number}")

        self.rollouts.append(f"r{number}")
        self._insist(order)
        return f"r{number}"

    def turn(self) -> None:
        """Every device calls once, in any order."""
        for device in self.chance.sample(self.devices, len(self.devices)):
            device.step(self.targets)
            self.revive()

    def revive(self) -> None:
        """What to do about a server that is dead; a kind of fault may replace it."""

    def _insist(self, act: Callable[[], None]) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return act()
            except FleetError:
                assert time.monotonic() < end_s, "the orchestrator does not take an order"
                self.revive()

    def close(self) -> None:
        for device in self.devices:
            device.wire.close()


def state_of(operator: Operator, rollout: str) -> RolloutState | None:
    with contextlib.suppress(FleetError):
        return operator.get_rollout(rollout).state
    return None


def kills(folder: Path, *, count: int, seed: int, say: Callable[[str], None]) -> Counter[str]:
    """Kill at least `count` times; returns how often at which point."""
    chance, hit = random.Random(seed), Counter[str]()
    with OrchestratorProcess(folder) as server:
        server.start()
        campaign, armed = Campaign(server, chance), ""

        def revive() -> None:
            nonlocal armed
            if server.child is not None and server.child.poll() is None:
                return
            while True:
                if server.child is not None:
                    assert server.reap() == -signal.SIGKILL
                hit[armed] += 1
                armed = chance.choice(sorted(POINTS))
                if server.start(program=("tests.kit.killed_orchestrator", armed, str(chance.randint(1, PASSES.get(armed, 25))))):
                    return

        server.end(signal.SIGTERM)
        armed = chance.choice(sorted(POINTS))
        server.start(program=("tests.kit.killed_orchestrator", armed, str(chance.randint(1, PASSES.get(armed, 25)))))
        campaign.revive = revive  # type: ignore[method-assign]
        with server.operator() as operator:
            while hit.total() < count:
                rollout, end_s = campaign.begin(operator), time.monotonic() + PATIENCE_S
                wiped: HonestDevice | None = chance.choice(campaign.devices)
                while state_of(operator, rollout) is not RolloutState.COMPLETED:
                    assert time.monotonic() < end_s, f"{rollout} did not end in time: {operator.get_rollout(rollout)}"
                    campaign.turn()
                    if wiped is not None and wiped.wire.assigned_digest:
                        wiped.wipe()
                        wiped = None
                say(f"{rollout} completed, {hit.total()} kills so far")
            while any(device.owes for device in campaign.devices):
                campaign.turn()
        campaign.close()
        if server.child is not None:
            server.end(signal.SIGKILL)
        check(f"sqlite:///{server.fleet_dir / 'orchestrator.db'}", campaign)
    return hit


def two_leaders(folder: Path, *, seed: int, say: Callable[[str], None]) -> str:
    """Returns what the woken leader was told."""
    with postgres() as database, contextlib.ExitStack() as stack:
        url = database.database()
        options = ("--database-url", url, "--ca-dir", str(folder / "ca"), "--lease-s", str(LEASE_S))
        first = stack.enter_context(OrchestratorProcess(folder, name="first", options=options))
        second = stack.enter_context(OrchestratorProcess(folder, name="second", trust=first.trust, options=options))
        first.start()
        second.start()
        campaign = Campaign(second, random.Random(seed))
        with second.operator() as operator:
            rollout, end_s = campaign.begin(operator), time.monotonic() + PATIENCE_S
            while operator.get_rollout(rollout).confirmed == 0:
                assert time.monotonic() < end_s, "nothing moved"
                campaign.turn()
            assert leader(url, first, second) == (1, "first")
            assert first.child is not None
            first.child.send_signal(signal.SIGSTOP)
            while leader(url, first, second) != (2, "second"):
                assert time.monotonic() < end_s, "nobody took over"
                campaign.turn()
            say("the frozen leader was replaced")
            while state_of(operator, rollout) is not RolloutState.COMPLETED:
                assert time.monotonic() < end_s, "the rollout did not end in time"
                campaign.turn()
            first.child.send_signal(signal.SIGCONT)
            while not (refusal := refused(first.log)):
                assert time.monotonic() < end_s, f"the woken leader was not refused: {first.log.read_text()[-2000:]}"
                time.sleep(0.05)
            assert leader(url, first, second) == (2, "second"), "it did not lead again"
            while any(device.owes for device in campaign.devices):
                campaign.turn()
        campaign.close()
        for server in (first, second):
            assert server.end(signal.SIGTERM) == 0
        check(url, campaign)
    return refusal


def leader(url: str, *servers: OrchestratorProcess) -> tuple[int, str]:
    """Term, and name of the folder of who leads; empty where it is none of these."""
    engine = tables.open_database(url)
    with engine.begin() as connection:
        row = connection.execute(select(tables.leadership)).one()
    engine.dispose()
    names = {(server.fleet_dir / "replica").read_text(): server.fleet_dir.name for server in servers}
    return row.term, names.get(row.holder.rpartition(" ")[2], "")


def refused(log: Path) -> str:
    """The refusal of an engine write in a log, if there is one."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return next((str(line.get("why", "")) for line in lines if line.get("message") == "engine pass refused"), "")


def check(url: str, campaign: Campaign) -> None:
    """That the database holds everything once."""
    engine = tables.open_database(url)
    with engine.begin() as connection:
        reports = connection.execute(select(tables.reports.c.device_id, tables.reports.c.incarnation, tables.reports.c.sequence)).all()
        events = connection.execute(select(tables.rollout_events).order_by(tables.rollout_events.c.sequence)).mappings().all()
        rows = {row.device_id: row for row in connection.execute(select(tables.devices))}
    engine.dispose()
    kept: dict[tuple[str, int], list[int]] = {}
    for device_id, incarnation, sequence in reports:
        kept.setdefault((device_id, incarnation), []).append(sequence)
    for device in campaign.devices:
        lives = {life: sorted(kept.get((device.wire.device_id, life), [])) for life in sorted(device.made, reverse=True)}
        in_all, newer = sum(map(len, lives.values())), 0
        for life, found in lives.items():
            least = device.acknowledged[life]  # a wiped device no longer says what it had not heard of
            newer += len(found)
            first = found[0] if found else least + 1
            assert found == list(range(first, first + len(found))), f"kept {found}"
            assert least <= first + len(found) - 1 <= device.made[life], f"{device.made[life]} made, {least} acknowledged, kept {found}"
            assert first == 1 or newer == in_all >= KEPT_OF_A_DEVICE, (
                f"the oldest of {in_all} are gone, and {newer} are newer: kept {found}"
            )
        row = rows[device.wire.device_id]
        assert max(device.meaning) == row.generation, "its newest assignment is the one that the database holds"
    for rollout in campaign.rollouts:
        of_it = [event for event in events if event["rollout_id"] == rollout]
        kinds = Counter(event["kind"] for event in of_it)
        assert (kinds["wave_started"], kinds["completed"]) == (len(WAVES), 1), f"{rollout}: {kinds}"
        offered = Counter(name for event in of_it if event["kind"] == "offered" for name in json.loads(event["facts"])["devices"])
        assert offered == Counter(device.wire.device_id for device in campaign.devices), f"{rollout}: {offered}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault.orchestrator", description="Kill and freeze orchestrators.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with _folder() as folder:
        hit = kills(folder, count=options.kills, seed=options.seed, say=print)
    print(f"{hit.total()} kills ({', '.join(f'{point}: {count}' for point, count in sorted(hit.items()))}): 0 reports lost, 0 offers twice")
    with _folder() as folder:
        print(f"two leaders: the woken one was refused: {two_leaders(folder, seed=options.seed, say=print)}")
    return 0


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kdpipe-fault-orchestrator-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
