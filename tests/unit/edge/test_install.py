"""Installing, with a fault at every place: the device always answers with a verified model."""

import contextlib
import os
import random
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.files import write_atomic
from pipeline.releases.manifest import Golden
from pipeline.releases.target import ReleaseTarget
from pipeline.rollout import device
from pipeline.rollout.device import BYTE_BUDGET_FACTOR, RESTING, TRIES, State
from pipeline.rollout.device_file import from_json
from tests.kit.bundles import NOW, TEXTS, Trust, text_bundle, text_probabilities, text_table, wrong_golden
from tests.kit.devices import Device
from tests.kit.kill_switch import KillSwitch
from workers.edge.download import part_path
from workers.edge.fleet_client import FleetUnreachableError
from workers.edge.install import LIVE_WANTED, InstallInterruptedError, Pace
from workers.edge.serving import NoModelError
from workers.edge.trust import MetadataRefusedError


class World:
    """A published fleet with four good releases, made once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trust = folder, Trust.make(folder)
        self.targets = {n: self.publish(n) for n in (1, 2, 3, 4)}
        self.tables = {self.targets[n].digest: text_table(n) for n in (1, 2, 3, 4)}
        one = Device(folder / "first", self.trust)
        one.install(self.targets[1], 1)

    def publish(self, n: int) -> ReleaseTarget:
        bundle = text_bundle(self.folder / "bundles", release=n, seed=n)
        return self.trust.publish(bundle, release=n)

    def device(self, folder: Path, *, fresh: bool = False) -> Device:
        """A device that runs release 1, or nothing yet."""
        if not fresh:
            shutil.copytree(self.folder / "first", folder)
        made = Device(folder, self.trust)
        made.boot()
        return made

    def check_answer(self, made: Device) -> str:
        """The device answers, and exactly like the release that it names."""
        answer = made.serving.predict(TEXTS)
        table = self.tables[answer.slot.digest]
        for text, row in zip(TEXTS, answer.probabilities_BK, strict=True):
            assert row == pytest.approx(text_probabilities(text, table), abs=1e-4)
        return answer.slot.digest


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_touch_of_the_disk_it_answers_and_then_finishes(world: World, tmp_path: Path, stride: int) -> None:
    for step in range(1, 1000, stride):
        folder = tmp_path / str(step)
        made = world.device(folder)
        with KillSwitch(step) as switch:
            made.assign(world.targets[2], 2)
            made.installer.advance()
        again = Device(folder, world.trust)
        again.boot()
        assert world.check_answer(again) in (world.targets[1].digest, world.targets[2].digest)
        again.assign(world.targets[2], 2)
        again.installer.advance()
        assert again.record.current.state is State.CONFIRMED
        assert world.check_answer(again) == world.targets[2].digest
        assert {p.name for p in (folder / "slots").iterdir()} == {world.targets[1].digest, world.targets[2].digest}
        assert list((folder / "downloads").iterdir()) == []
        shutil.rmtree(folder)
        if not switch.fired:
            assert step > 60
            return
    raise AssertionError("never ran through")


def test_a_first_install_killed_at_many_touches_of_the_disk_is_finished(world: World, tmp_path: Path) -> None:
    for step in range(1, 1000, 4):
        made = world.device(tmp_path / str(step), fresh=True)
        with KillSwitch(step) as switch:
            made.assign(world.targets[1], 1)
            made.installer.advance()
        again = Device(tmp_path / str(step), world.trust)
        again.boot()
        if again.record.current.incumbent is None:
            with pytest.raises(NoModelError):
                again.serving.predict(TEXTS)
        again.assign(world.targets[1], 1)
        again.installer.advance()
        assert world.check_answer(again) == world.targets[1].digest
        if not switch.fired:
            return
    raise AssertionError("never ran through")


def test_killed_again_and_again_at_random_touches_it_always_answers_and_ends(world: World, tmp_path: Path) -> None:
    rng = random.Random(3)
    made = world.device(tmp_path / "device")
    generation, outcomes = 1, set()
    for _ in range(40):
        generation += 1
        target = world.targets[rng.randint(1, 4)]
        for _ in range(rng.randint(0, 4)):
            with KillSwitch(rng.randint(1, 160)):
                made.assign(target, generation)
                made.installer.advance()
            made = Device(tmp_path / "device", world.trust)
            made.boot()
            world.check_answer(made)
        made.assign(target, generation)
        made.installer.advance()
        state = made.record.current.state
        assert state in (State.CONFIRMED, State.ROLLED_BACK, State.FAILED)
        assert (world.check_answer(made) == target.digest) >= (state is State.CONFIRMED)
        outcomes.add(state)
    assert State.CONFIRMED in outcomes


def test_a_release_that_kills_the_agent_is_given_up_after_its_tries(world: World, tmp_path: Path) -> None:
    """The process ends (as a kill would end it) each time the candidate starts."""
    folder = tmp_path / "device"
    made = world.device(folder)
    made.assign(world.targets[2], 2)
    starts = 0
    for _ in range(20):
        before = len(made.models.started)

        def start_and_die(slot: object, niceness: int) -> None:
            raise KeyboardInterrupt

        made.installer._start = start_and_die  # type: ignore[assignment]
        try:
            made.installer.advance()
        except KeyboardInterrupt:
            starts += 1
        assert len(made.models.started) == before
        if made.record.current.state in device.TERMINAL:
            break
        made = Device(folder, world.trust)
        made.boot()
        assert world.check_answer(made) == world.targets[1].digest
    assert starts == device.TRIES
    assert (made.record.current.state, made.record.current.code) == (State.FAILED, "tries_spent")
    assert world.check_answer(made) == world.targets[1].digest


def test_a_candidate_that_misses_its_golden_samples_fails_before_the_switch(world: World, tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path, release=5, seed=5, golden=wrong_golden(5))
    bad = world.trust.publish(bundle, release=5)
    made = world.device(tmp_path / "device")
    record = made.install(bad, 2)
    assert (record.state, record.code) == (State.FAILED, "golden_mismatch")
    assert world.check_answer(made) == world.targets[1].digest
    assert not (tmp_path / "device" / "slots" / bad.digest).exists()
    fresh = world.device(tmp_path / "fresh", fresh=True)
    assert fresh.install(bad, 1).state is State.FAILED
    with pytest.raises(NoModelError):
        fresh.serving.predict(TEXTS)


@pytest.mark.parametrize(
    ("answers", "state", "code"),
    [
        (0, State.FAILED, "model_died"),
        (len(TEXTS) - 1, State.FAILED, "model_died"),
        (len(TEXTS), State.ROLLED_BACK, "model_died"),  # as the trial begins
        (2 * len(TEXTS), State.ROLLED_BACK, "model_died"),  # at its end
        (3 * len(TEXTS), State.ROLLED_BACK, "model_died"),  # when it is started anew
    ],
)
def test_a_candidate_that_dies_in_shadow_or_trial_leaves_the_incumbent(
    world: World, tmp_path: Path, answers: int, state: State, code: str
) -> None:
    made = world.device(tmp_path / "device")
    made.models.deadly[world.targets[2].digest] = answers
    record = made.install(world.targets[2], 2)
    assert (record.state, record.code) == (state, code)
    assert world.check_answer(made) == world.targets[1].digest
    assert len(made.models.running) == 1


def test_a_confirmed_release_has_been_started_anew_and_no_more_than_two_models_were_up_at_once(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    assert made.install(world.targets[2], 2).state is State.CONFIRMED
    one, two = world.targets[1].digest, world.targets[2].digest
    assert made.models.started == [one, one, two, two, two], "it answers; beside it both in shadow; the candidate in trial, and again"
    assert made.models.most_running == 2
    assert len(made.models.running) == 1


def test_a_slot_that_rots_during_the_trial_is_found_by_the_restart(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    weights = tmp_path / "device" / "slots" / world.targets[2].digest / "weights.bin"

    def rot() -> None:
        """When the candidate runs in its trial: the second time that it was started."""
        if made.models.started.count(world.targets[2].digest) == 2:
            weights.write_bytes(weights.read_bytes()[:-1] + b"~")

    made.models.on_run = rot
    record = made.install(world.targets[2], 2)
    assert (record.state, record.code) == (State.ROLLED_BACK, "slot_corrupt")
    made.models.on_run = lambda: None
    assert world.check_answer(made) == world.targets[1].digest
    assert len(made.models.running) == 1


def test_a_candidate_that_holds_too_much_memory_never_answers(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.models.memory_bytes[world.targets[2].digest] = device.memory_limit_bytes(1 << 20) + 1
    record = made.install(world.targets[2], 2)
    assert (record.state, record.code) == (State.FAILED, "memory_over_budget")
    fresh = world.device(tmp_path / "fresh", fresh=True)
    fresh.models.memory_bytes[world.targets[2].digest] = device.memory_limit_bytes(1 << 20) + 1
    assert fresh.install(world.targets[2], 1).code == "memory_over_budget"


def test_shadow_waits_for_live_inputs_and_not_longer_than_it_needs(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.installer._pace = Pace(shadow_s=3600, trial_s=0)
    waits = threading.Thread(target=made.install, args=(world.targets[2], 2))
    waits.start()
    for n in range(LIVE_WANTED):
        made.serving.predict([f"live {n}"])
    waits.join(60)
    shadow = next(report.shadow for record in made.announced for report in record.reports if report.shadow is not None)
    assert (shadow.samples, shadow.golden_only) == (LIVE_WANTED + len(TEXTS), False)


def test_a_candidate_that_does_not_load_here_leaves_the_incumbent(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.models.refused.add(world.targets[2].digest)
    assert made.install(world.targets[2], 2).code == "model_refused"
    assert world.check_answer(made) == world.targets[1].digest


def test_shadow_compares_on_live_inputs_and_golden_samples_and_the_evidence_is_announced_before_the_switch(
    world: World, tmp_path: Path
) -> None:
    made = world.device(tmp_path / "device")
    made.serving.predict(["one", "two", "three"])
    made.install(world.targets[2], 2)
    announced = made.announced[-1].reports[-1]
    assert announced.state is State.TRIAL
    assert announced.shadow is not None
    assert announced.shadow.samples == 3 + len(TEXTS)
    assert not announced.shadow.golden_only
    old, new = (world.tables[world.targets[n].digest] for n in (1, 2))
    same = [
        (text_probabilities(t, old)[0] > 0.5 and text_probabilities(t, new)[0] > 0.5)
        or (text_probabilities(t, old)[0] <= 0.5 and text_probabilities(t, new)[0] <= 0.5)
        for t in ("one", "two", "three", *TEXTS)
    ]  # fmt: skip
    assert announced.shadow.agreed == sum(same)


def test_a_candidate_that_answers_otherwise_than_what_runs_is_refused_before_it_answers_anybody(world: World, tmp_path: Path) -> None:
    table = -text_table(1)
    golden = [Golden(input=text, probabilities=text_probabilities(text, table)) for text in TEXTS]
    bundle = text_bundle(tmp_path / "bundles", release=9, seed=9, table=table, golden=golden)
    opposite = world.trust.publish(bundle, release=9, shadow_floor_percent=50)
    made = world.device(tmp_path / "device")
    made.serving.predict([f"live {n}" for n in range(16)])
    record = made.install(opposite, 2)
    assert (record.state, record.code) == (State.FAILED, "shadow_disagrees")
    assert "on 0 of 21 inputs, surely below 50 %" in record.detail
    assert world.check_answer(made) == world.targets[1].digest


def test_without_live_inputs_golden_samples_stand_in_and_the_evidence_says_so(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.install(world.targets[2], 2)
    shadow = made.announced[-1].reports[-1].shadow
    assert shadow is not None
    assert (shadow.samples, shadow.golden_only) == (len(TEXTS), True)


def test_a_new_assignment_heard_before_the_switch_stops_the_switch(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.on_announce = lambda: made.assign(world.targets[1], 3) if made.record.current.generation == 2 else None
    record = made.install(world.targets[2], 2)
    assert (record.generation, record.state) == (3, State.CONFIRMED)
    assert world.check_answer(made) == world.targets[1].digest
    assert world.targets[2].digest not in [r.digest for r in record.reports if r.state is State.CONFIRMED]


def test_a_stop_during_the_trial_leaves_the_incumbent_and_the_next_process_tries_again(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.on_announce = made.stop.set
    with pytest.raises(InstallInterruptedError):
        made.install(world.targets[2], 2)
    assert world.check_answer(made) == world.targets[1].digest
    again = Device(tmp_path / "device", world.trust)
    again.boot()
    again.installer.advance()
    assert again.record.current.state is State.CONFIRMED


@pytest.mark.parametrize("stopped_in", [State.STAGED, State.TRIAL], ids=["while it waits for live inputs", "in the trial"])
def test_a_device_that_is_stopped_in_order_again_and_again_does_not_give_a_good_release_up(
    world: World, tmp_path: Path, stopped_in: State
) -> None:
    made = world.device(tmp_path / "device")
    made.assign(world.targets[2], 2)
    for _ in range(2 * TRIES):
        if stopped_in is State.STAGED:
            made.installer._pace = Pace(shadow_s=3600, trial_s=0)
            made.serving.await_live_inputs = lambda count, timeout_s, made=made: made.stop.set()  # type: ignore[method-assign,misc]
        else:
            made.on_announce = made.stop.set
        with pytest.raises(InstallInterruptedError):
            made.installer.advance()
        assert made.record.current.state is stopped_in
        made = Device(tmp_path / "device", world.trust)
        made.boot()
    made.installer.advance()
    assert made.record.current.state is State.CONFIRMED


def test_the_way_back_to_the_release_before_needs_no_download(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.install(world.targets[2], 2)
    made.rewrite = lambda data: b""
    assert made.install(world.targets[1], 3).state is State.CONFIRMED
    assert world.check_answer(made) == world.targets[1].digest


def test_a_cut_download_goes_on_where_it_stopped(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.assign(world.targets[2], 2)
    part = part_path(made.folder.downloads, world.targets[2].digest)
    for cut in range(1, world.targets[2].length // 1024 + 1):
        made.cut_after_bytes = 1024
        with pytest.raises(FleetUnreachableError):
            made.installer.advance()
        assert part.stat().st_size == 1024 * cut
        made = Device(tmp_path / "device", world.trust)
        made.boot()
    made.cut_after_bytes = 1024
    made.installer.advance()
    assert world.check_answer(made) == world.targets[2].digest


def test_a_partial_download_that_went_bad_is_downloaded_anew(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.folder.downloads.mkdir(exist_ok=True)
    part_path(made.folder.downloads, world.targets[2].digest).write_bytes(b"rot" * 100)
    assert made.install(world.targets[2], 2).state is State.CONFIRMED


def test_a_server_that_never_sends_the_whole_bundle_is_not_asked_for_ever(world: World, tmp_path: Path) -> None:
    """Each time all but the last byte, and the worst case on this side: nothing of it could be kept."""
    length, rounds = world.targets[2].length, 0
    made = world.device(tmp_path / "device")
    made.assign(world.targets[2], 2)
    while made.record.current.state not in RESTING:
        rounds += 1
        made.rewrite = lambda data: b"~" * (length - 1)
        with contextlib.suppress(FleetUnreachableError):
            made.installer.advance()
        part_path(made.folder.downloads, world.targets[2].digest).unlink(missing_ok=True)
        made = Device(tmp_path / "device", world.trust)
        made.boot()
    assert (made.record.current.state, made.record.current.code) == (State.FAILED, "byte_budget")
    assert rounds == BYTE_BUDGET_FACTOR + 2
    assert made.record.current.fetched_bytes < (BYTE_BUDGET_FACTOR + 1) * length
    assert world.check_answer(made) == world.targets[1].digest


def test_a_record_that_rotted_is_begun_anew_and_its_slots_are_used_again(world: World, tmp_path: Path) -> None:
    world.device(tmp_path / "device")
    (tmp_path / "device" / "state.json").write_bytes(b'{"version": 1, "ro')
    again = Device(tmp_path / "device", world.trust)
    again.boot()
    again.rewrite = lambda data: b""
    assert again.install(world.targets[1], 5).state is State.CONFIRMED
    assert world.check_answer(again) == world.targets[1].digest
    assert (tmp_path / "device" / "state.bad").exists()


def test_bytes_that_are_not_the_signed_ones_are_refused(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.rewrite = lambda data: data[:-1] + b"~"
    record = made.install(world.targets[2], 2)
    assert (record.state, record.code) == (State.FAILED, "digest_mismatch")
    made.rewrite = lambda data: data + b"more"
    record = made.install(world.targets[2], 3)
    assert (record.state, record.code) == (State.FAILED, "wrong_length")
    assert world.check_answer(made) == world.targets[1].digest
    assert list(made.folder.downloads.iterdir()) == []


def test_expired_metadata_blocks_an_install_and_never_the_running_model(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.later(timedelta(days=3))
    with pytest.raises(MetadataRefusedError) as refused:
        made.install(world.targets[2], 2)
    assert refused.value.by_clock
    assert made.record.current.state == "CHECK"
    assert world.check_answer(made) == world.targets[1].digest
    made.now = NOW
    made.installer.advance()
    assert made.record.current.state == "CONFIRMED"


def test_a_target_that_metadata_does_not_know_fails(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.record.save(device.assign(made.record.current, device.Wanted(generation=9, target="releases/small-000099.kdpb", digest="9" * 64)))
    made.installer.advance()
    assert made.record.current.code == "unknown_release"


@pytest.mark.parametrize("writes", range(8))
def test_a_full_disk_stops_the_install_and_nothing_else(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Whichever record cannot be written, what the device believes is what is on its disk."""
    made = world.device(tmp_path / "device")
    left = [writes]

    def full(path: Path, data: bytes) -> None:
        if left[0] == 0:
            raise OSError(28, "No space left on device", str(path))
        left[0] -= 1
        write_atomic(path, data)

    monkeypatch.setattr("workers.edge.folder.write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        made.install(world.targets[2], 2)
    assert from_json((tmp_path / "device" / "state.json").read_bytes()) == made.record.current
    assert world.check_answer(made) == world.targets[1].digest
    monkeypatch.undo()
    assert made.install(world.targets[2], 2).state is State.CONFIRMED
