"""The wave engine: events and assignments move together, generations only grow, and nothing is signed twice for nothing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from sqlalchemy import Engine as Database
from sqlalchemy import delete, event, func, select, update

from pipeline.releases.assignment import ASSIGNMENT_VALID, Assignment, verify_assignment
from pipeline.releases.online import BundleMissingError, ReleaseYankedError
from pipeline.releases.target import ReleaseTarget, target_path
from pipeline.rollout import steering
from pipeline.rollout.events import Event, RolloutLogBrokenError
from pipeline.rollout.evidence import Evidence, Progress, Serving
from pipeline.rollout.rollout import Rollout, RolloutState
from pipeline.rollout.steering import Action
from pipeline.rollout.targeting import Selector
from workers.orchestrator import engine, tables
from workers.orchestrator.engine import Engine, Order, RolloutConflictError, RolloutUnknownError
from workers.orchestrator.pacing import Pacing
from workers.orchestrator.pki import utc
from workers.orchestrator.roster import DeviceRow, Roster
from workers.orchestrator.served import Served
from workers.orchestrator.unfinished import unfinished
from workers.orchestrator.writer import StoreUnavailableError, Writer

START_S = 1_800_000_000.0


class Shelf:
    """Published releases, without a repository."""

    def __init__(self, *releases: ReleaseTarget) -> None:
        self.releases = {release.path: release for release in releases}
        self.yanked: set[str] = set()

    def yank(self, number: int) -> None:
        self.yanked.add(release(number).path)
        del self.releases[release(number).path]

    def targets(self) -> dict[str, ReleaseTarget]:
        return dict(self.releases)

    def target(self, path: str) -> ReleaseTarget:
        if path in self.yanked:
            raise ReleaseYankedError(path, "answers in French")
        if path not in self.releases:
            raise BundleMissingError(path)
        return self.releases[path]


def release(number: int, *, floor: int = 0, hardware: tuple[str, ...] = ()) -> ReleaseTarget:
    return ReleaseTarget(
        path=target_path("small", number),
        digest=f"{number:064x}",
        length=1,
        student="small",
        release=number,
        generation=number,
        security_floor=floor,
        hardware=hardware,
    )


def order(number: int, *, rollout_id: str = "", waves: tuple[float, ...] = (1.0,), **changes: object) -> Order:
    values: dict[str, object] = {"population": "mail", "soak_s": 0.0, "deadline_s": 60.0, "lost_after_s": 30.0, **changes}
    return Order(rollout_id=rollout_id or f"r{number}", target=target_path("small", number), waves=waves, **values)  # type: ignore[arg-type]


class World:
    """A database, a roster and an engine; `crash` throws the last two away and reads the first again."""

    def __init__(self, folder: Path, signer: CryptoSigner) -> None:
        self.folder, self.signer, self.now = folder, signer, START_S
        self.shelf = Shelf(release(1), release(2), release(3, floor=2), release(4, hardware=("pi4",)))
        self.open()

    def open(self) -> None:
        self.database: Database = tables.open_database(tables.database_url(self.folder))
        self.roster = Roster(lambda: self.now)
        with self.database.begin() as connection:
            self.roster.load(connection)
        self.writer = Writer(self.database, self.roster)
        self.engine = Engine(self.roster, self.shelf, self.signer, started_s=self.now, pacing=Pacing())

    def close(self) -> None:
        self.writer.close()
        self.database.dispose()

    def crash(self) -> None:
        self.close()
        self.open()

    def add(self, *names: str, hardware: str = "x86") -> None:
        for name in names:
            row = DeviceRow(device_id=name, population="mail", hardware=hardware, last_seen_s=self.now)
            self.writer.submit(lambda session, row=row: session.add_device(row)).result(10)  # type: ignore[misc]

    def change(self, name: str, **changes: object) -> None:
        def job(session):
            session.put_device(replace(session.device(name), **changes))

        self.writer.submit(job).result(10)

    def says(self, name: str, progress: Progress) -> None:
        row = self.roster.devices[name]
        running = row.digest if progress is Progress.CONFIRMED else row.running_digest
        self.change(name, progress=str(progress), progress_s=self.now, running_digest=running, last_seen_s=self.now)

    def order(self, wanted: Order) -> Rollout:
        return self.writer.submit(lambda session: self.engine.order(session, wanted, salt="salt", now=self.now)).result(10)

    def act(self, rollout_id: str, action: Action = Action.APPROVE) -> Rollout:
        """The operator's action, and the leader's pass that it wakes."""
        self.writer.submit(lambda session: self.engine.act(session, rollout_id, action, now=self.now)).result(10)
        self.tick()
        return self.roster.rollouts[rollout_id]

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.writer.submit(lambda session: self.engine.tick(session, now=self.now)).result(10)

    def roll(self, number: int, **changes: object) -> Rollout:
        """Bring a release to every device that is there."""
        wanted = order(number, **changes)  # type: ignore[arg-type]
        self.order(wanted)
        self.act(wanted.rollout_id)
        for name, row in self.roster.devices.items():
            if row.digest == f"{number:064x}":
                self.says(name, Progress.CONFIRMED)
        self.tick()
        return self.roster.rollouts[wanted.rollout_id]

    def halt(self, number: int) -> None:
        """A release that fails on the one device that there is."""
        self.order(order(number))
        self.act(f"r{number}")
        self.says("d-1", Progress.FAILED)
        self.tick()
        assert self.state(f"r{number}") is RolloutState.HALTED

    def state(self, rollout_id: str) -> RolloutState:
        return self.roster.rollouts[rollout_id].state

    def assignment(self, name: str) -> Assignment:
        key = self.signer.public_key
        return verify_assignment(self.roster.devices[name].envelope, {key.keyid: key}, device=name, now=utc(self.now))


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, CryptoSigner.generate_ed25519())
    yield world
    world.close()


def test_an_offer_is_a_signed_assignment_for_that_device(world: World) -> None:
    world.add("d-1")
    world.order(order(1))
    world.act("r1")
    assignment = world.assignment("d-1")
    assert (assignment.target, assignment.digest, assignment.generation) == (target_path("small", 1), f"{1:064x}", 1)
    assert assignment.expires - assignment.issued == ASSIGNMENT_VALID


def test_an_assignment_is_signed_when_it_changes_and_only_then(world: World) -> None:
    world.add("d-1")
    world.order(order(1))
    world.act("r1")
    before = world.roster.devices["d-1"].envelope
    for _ in range(5):
        world.tick(1.0)
    assert world.roster.devices["d-1"].envelope == before


def test_generations_only_grow_over_releases_halts_and_restarts(world: World) -> None:
    world.add("d-1")
    generations = [0]
    for number, last in ((1, Progress.CONFIRMED), (2, Progress.FAILED), (3, Progress.CONFIRMED)):
        world.order(order(number))
        world.act(f"r{number}")
        generations.append(world.roster.devices["d-1"].generation)
        world.says("d-1", last)
        world.tick()
        world.crash()
        generations.append(world.roster.devices["d-1"].generation)
    assert generations == sorted(generations)
    assert world.roster.devices["d-1"].target == target_path("small", 3)


def test_a_halt_points_the_failed_device_at_what_it_runs_under_a_new_generation(world: World) -> None:
    world.add("d-1")
    world.roll(1)
    world.halt(2)
    assert (world.assignment("d-1").target, world.assignment("d-1").generation) == (target_path("small", 1), 3)


def test_a_device_that_has_accepted_a_newer_generation_gets_a_newer_one_still(world: World) -> None:
    world.add("d-1")
    world.order(order(1))
    world.act("r1")
    world.change("d-1", device_generation=41)
    world.writer.submit(lambda session: world.engine.overtake(session, session.device("d-1"), now=world.now)).result(10)  # type: ignore[arg-type]
    assert world.assignment("d-1").generation == 42


def test_assignments_near_their_end_are_signed_anew_under_the_same_generation(world: World) -> None:
    world.add("d-1")
    world.roll(1)
    before = world.assignment("d-1")
    world.now += ASSIGNMENT_VALID.total_seconds() * 0.6
    assert world.writer.submit(lambda session: world.engine.refresh(session, now=world.now)).result(10) == 1
    after = world.assignment("d-1")
    assert (after.generation, after.digest) == (before.generation, before.digest)
    assert after.expires > before.expires
    assert world.writer.submit(lambda session: world.engine.refresh(session, now=world.now)).result(10) == 0


def test_a_new_assignment_key_signs_everything_anew_under_the_same_generation(world: World) -> None:
    world.add("d-1")
    world.roll(1)
    before, world.signer = world.assignment("d-1"), CryptoSigner.generate_ed25519()
    world.engine.sign_with(world.signer)
    assert world.writer.submit(lambda session: world.engine.refresh(session, now=world.now)).result(10) == 1
    assert world.assignment("d-1").generation == before.generation


def test_many_assignments_are_signed_anew_in_slices_and_a_crash_between_two_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SLICE", 2)
    world.add(*"abcde")
    world.roll(1, in_flight_first=9)
    for _ in range(3):
        world.tick()
    world.now += ASSIGNMENT_VALID.total_seconds() * 0.6
    signed = []
    for _ in range(4):
        signed.append(world.writer.submit(lambda session: world.engine.refresh(session, now=world.now)).result(10))
        world.crash()
    assert signed == [2, 2, 1, 0]
    assert len({row.expires_s for row in world.roster.devices.values()}) == 1


def passes(world: World) -> int:
    """Passes until nothing is left behind, a crash before each."""
    for count in range(1, 20):
        world.crash()
        world.tick()
        if not world.engine.is_behind:
            return count
    raise AssertionError("the engine never catches up")


def test_a_revert_of_many_goes_on_in_slices_over_crashes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(*"abcde")
    for number in (1, 2):
        world.roll(number, in_flight_first=9)
    monkeypatch.setattr(engine, "SLICE", 2)
    world.order(order(3, in_flight_first=9))
    world.act("r3")
    assert passes(world) == 2, "two were offered with the action, and the rest in two passes"
    assert {row.target for row in world.roster.devices.values()} == {target_path("small", 3)}
    world.act("r3", Action.ABORT_REVERT)
    passes(world)
    assert {row.target for row in world.roster.devices.values()} == {target_path("small", 2)}


def test_offers_of_an_aborted_rollout_are_all_called_back_before_the_next_one_begins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(*"abcdefg")
    world.roll(1, in_flight_first=9)
    world.order(order(2, in_flight_first=9))
    world.act("r2")
    monkeypatch.setattr(engine, "SLICE", 2)
    world.writer.submit(lambda session: world.engine.act(session, "r2", Action.ABORT_KEEP, now=world.now)).result(10)
    world.order(order(1, rollout_id="again", in_flight_first=9))
    world.writer.submit(lambda session: world.engine.act(session, "again", Action.APPROVE, now=world.now)).result(10)
    held = [target_path("small", 1)] * 2 + [target_path("small", 2)] * 5
    assert sorted(row.target for row in world.roster.devices.values()) == held
    passes(world)
    assert {row.target for row in world.roster.devices.values()} == {target_path("small", 1)}
    assert {member.previous for member in world.roster.rollouts["again"].members.values()} == {target_path("small", 1)}
    world.tick()
    with world.database.begin() as connection:
        assert unfinished(connection) == frozenset()


def test_the_same_order_again_is_the_same_rollout_and_another_content_is_refused(world: World) -> None:
    first = world.order(order(1))
    assert world.order(order(1)) == first
    with pytest.raises(RolloutConflictError, match="another content"):
        world.order(order(1, soak_s=9.0))


def test_an_order_for_a_release_that_is_not_published_is_refused(world: World) -> None:
    with pytest.raises(BundleMissingError):
        world.order(order(9))


def test_one_rollout_at_a_time_moves_a_population(world: World) -> None:
    world.add("d-1")
    world.order(order(1))
    world.act("r1")
    world.order(order(2))
    with pytest.raises(RolloutConflictError, match="one rollout at a time"):
        world.act("r2")
    world.order(order(3, rollout_id="other", population="ads"))
    assert world.act("other").state is RolloutState.APPROVED


def test_a_halted_rollout_gives_way_to_the_next(world: World) -> None:
    world.add("d-1")
    world.order(order(1))
    world.act("r1")
    world.says("d-1", Progress.FAILED)
    world.tick()
    world.order(order(2))
    world.act("r2")
    assert world.state("r1") is RolloutState.ABORTED
    assert world.assignment("d-1").target == target_path("small", 2)


def test_an_unknown_rollout_is_no_rollout(world: World) -> None:
    with pytest.raises(RolloutUnknownError):
        world.act("nope")


def test_a_device_that_enrols_after_the_end_gets_what_its_population_runs(world: World) -> None:
    world.add("d-1")
    assert world.roll(1).state is RolloutState.COMPLETED
    world.add("d-2")
    world.tick()
    assert world.assignment("d-2").target == target_path("small", 1)


def test_newcomers_of_a_hardware_class_that_the_release_does_not_allow_get_nothing(world: World) -> None:
    world.add("d-1", hardware="pi4")
    world.roll(4)
    world.add("d-2", hardware="x86")
    world.tick()
    assert world.roster.devices["d-2"].target == ""


def test_a_revert_never_goes_below_the_security_floor(world: World) -> None:
    world.add("d-1")
    world.roll(1)
    world.order(order(3, waves=(1.0,), soak_s=100.0))
    world.act("r3")
    world.says("d-1", Progress.CONFIRMED)
    world.tick()
    world.act("r3", Action.ABORT_REVERT)
    assert world.state("r3") is RolloutState.REVERTED
    assert world.assignment("d-1").target == target_path("small", 3)


def test_a_revert_brings_devices_back_to_the_release_before(world: World) -> None:
    world.add("d-1")
    world.roll(1)
    world.order(order(2, soak_s=100.0))
    world.act("r2")
    world.says("d-1", Progress.CONFIRMED)
    world.tick()
    world.act("r2", Action.ABORT_REVERT)
    assert world.state("r2") is RolloutState.REVERTING
    assert world.assignment("d-1").target == target_path("small", 1)
    world.says("d-1", Progress.CONFIRMED)
    world.tick()
    assert world.state("r2") is RolloutState.REVERTED


def test_a_revoked_device_is_assigned_nothing_more(world: World) -> None:
    world.add("d-1", "d-2")
    world.change("d-1", is_revoked=True)
    world.roll(1)
    assert world.roster.devices["d-1"].target == ""


@pytest.mark.parametrize("crash_at", range(1, 7))
def test_a_crash_before_any_commit_loses_neither_events_nor_assignments(world: World, crash_at: int) -> None:
    """The n-th commit fails, the process dies, and the same rollout still ends with each event once."""
    world.add("d-1", "d-2", "d-3")
    commits = 0

    def fail(connection: object) -> None:
        nonlocal commits
        commits += 1
        if commits == crash_at:
            raise OSError("killed")

    event.listen(world.database, "commit", fail)

    def step(call) -> None:
        try:
            call()
        except StoreUnavailableError:
            world.crash()
            call()

    step(lambda: world.order(order(1, waves=(0.34, 1.0))))
    step(lambda: world.act("r1"))
    for _ in range(4):
        for name in [name for name, row in world.roster.devices.items() if row.digest and row.progress == Progress.SILENT]:
            step(lambda name=name: world.says(name, Progress.CONFIRMED))
        step(world.tick)
    assert world.state("r1") is RolloutState.COMPLETED
    assert [row.generation for row in world.roster.devices.values()] == [1, 1, 1], "no device was assigned twice"
    world.crash()
    assert world.state("r1") is RolloutState.COMPLETED, "its log reads back, its chain holds"


def test_a_rollout_with_a_tampered_log_is_not_led_and_its_population_begins_nothing_new(world: World) -> None:
    world.add("d-1")
    world.roll(1)
    before = world.roster.devices["d-1"]
    with world.database.begin() as connection:
        table = tables.rollout_events
        connection.execute(update(table).where(table.c.sequence == 3).values(facts='{"devices":["d-evil"]}'))
    world.crash()
    assert (set(world.roster.broken), world.roster.rollouts) == ({"r1"}, {})
    with pytest.raises(RolloutLogBrokenError, match="event 3"):
        world.act("r1", Action.ABORT_REVERT)
    world.order(order(2))
    with pytest.raises(RolloutConflictError, match="log of rollout r1 of population mail is broken"):
        world.act("r2")
    world.add("d-2")
    world.tick()
    assert world.roster.devices["d-2"].target == "", "what its population runs is not known"
    assert world.roster.devices["d-1"] == before, "it keeps what it was assigned"


def test_a_log_that_was_deleted_is_broken(world: World) -> None:
    world.order(order(1))
    with world.database.begin() as connection:
        connection.execute(delete(tables.rollout_events))
    world.crash()
    assert "empty" in str(world.roster.broken["r1"].error)


def test_what_a_device_told_long_ago_is_no_evidence(world: World) -> None:
    world.add("d-1")
    serving = Serving(answers=1, confidence_mean=0.5, latency_p50_ms=1.0)
    world.roster.served["d-1"] = Served(digest="", told_s=world.now, serving=serving)

    def seen(after_s: float) -> Serving | None:
        job = world.writer.submit(lambda session: world.engine._evidence(session, "mail", world.now + after_s))
        return job.result(10).devices["d-1"].serving

    assert (seen(600.0), seen(601.0)) == (serving, None)


def test_old_rollouts_leave_memory_and_are_read_back_when_asked_for(world: World) -> None:
    world.add("d-1")
    for number in range(12):
        world.now += 1.0
        world.roll(1 + number % 3, rollout_id=f"turn-{number}")
    world.roster.forget_old()
    assert "turn-0" not in world.roster.rollouts
    found = world.writer.submit(lambda session: world.engine.find(session, "turn-0")).result(10)
    assert found is not None
    assert found.state is RolloutState.COMPLETED
    world.crash()
    assert len(world.roster.rollouts) == 8
    assert (
        world.writer.submit(lambda session: session.connection.scalar(select(func.count()).select_from(tables.rollouts))).result(10) == 12
    )


def test_what_devices_of_a_kind_run_stays_in_memory_however_many_rollouts_come_after_it_for_others(world: World) -> None:
    world.add("d-1")
    world.roll(1, rollout_id="for-all")
    world.change("d-1", labels="ring=beta")
    for number in range(12):
        world.now += 1.0
        world.roll(2 + number % 2, rollout_id=f"beta-{number}", selector=Selector(labels=("ring=beta",)))
    world.writer.submit(lambda session: world.roster.forget_old()).result(10)
    assert len(world.roster.rollouts) == 9
    world.add("d-2")
    world.tick()
    assert world.roster.devices["d-2"].target == target_path("small", 1)
    world.crash()
    world.add("d-3")
    world.tick()
    assert world.roster.devices["d-3"].target == target_path("small", 1)


def test_approving_what_completed_ends_no_other_rollout(world: World) -> None:
    world.add("d-1")
    world.roll(1)
    world.halt(2)
    world.act("r1")
    assert (world.state("r1"), world.state("r2")) == (RolloutState.COMPLETED, RolloutState.HALTED)


def test_a_rollout_that_cannot_be_moved_holds_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.add("d-1")
    world.order(order(1))
    world.order(order(2, population="ads"))
    world.act("r1", Action.APPROVE)
    world.add("d-2")
    world.change("d-2", population="ads")

    def advance(rollout: Rollout, evidence: Evidence, *, now: float) -> tuple[Rollout, list[Event]]:
        if rollout.plan.rollout_id == "r1":
            raise ZeroDivisionError
        return steering.advance(rollout, evidence, now=now)

    monkeypatch.setattr(engine, "advance", advance)
    world.act("r2")
    assert world.state("r2") is RolloutState.RUNNING
    assert "cannot be moved" in caplog.text


def test_the_night_without_a_server_is_no_missed_deadline(world: World) -> None:
    world.add("d-1")
    world.order(order(1))
    world.act("r1")
    alive_until_s = world.now
    world.now += 3600.0
    world.crash()
    world.writer.submit(lambda session: world.engine.wake(session, alive_until_s=alive_until_s, now=world.now)).result(10)
    world.tick()
    assert world.state("r1") is RolloutState.RUNNING
