"""Whatever is rotten beside good slots, the device answers first, and says what is wrong."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.files import write_atomic
from pipeline.releases.target import ReleaseTarget
from pipeline.rollout.device import State
from pipeline.rollout.incumbent import BOOT_TRIES, NO_WAY_BACK
from pipeline.rollout.slots import Slot
from tests.kit.agents import AgentBench
from tests.kit.bundles import TEXTS, Trust, text_bundle, wrong_golden
from tests.kit.devices import Models, TableModel
from workers.edge.enrol import IdentityBrokenError
from workers.edge.fleet_client import FleetUnreachableError
from workers.edge.model_process import ModelDiedError
from workers.edge.serving import DEATHS_ALLOWED, NoModelError, StartModel


class World:
    """A fleet with two good releases and one whose golden samples are wrong, and a device that has had both good ones."""

    def __init__(self, folder: Path) -> None:
        self.trust = Trust.make(folder)
        self.targets = [self.trust.publish(text_bundle(folder / "bundles", release=n, seed=n), release=n) for n in (1, 2)]
        self.bad = text_bundle(folder / "bundles", release=3, seed=3, golden=wrong_golden(3))
        self.past = folder / "past"
        bench = AgentBench(self.past, self.trust)
        for generation, target in enumerate(self.targets, 1):
            bench.assign(target, generation)
            bench.agent.turn()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.past, tmp_path / "device"))


def offline(world: World, folder: Path, *, start: StartModel | None = None) -> AgentBench:
    bench = AgentBench(folder, world.trust, start=start)
    bench.error = FleetUnreachableError("Sync", "offline")
    return bench


def answers(bench: AgentBench) -> str:
    return bench.device.serving.predict(TEXTS).slot.digest


@pytest.mark.parametrize("rot", [b"\0" * 100, b"", b'{"version": 1, "ro', b"{}"], ids=["zeros", "empty", "cut", "fieldless"])
def test_with_a_rotten_record_and_no_network_it_answers_with_what_was_confirmed(world: World, folder: Path, rot: bytes) -> None:
    (folder / "state.json").write_bytes(rot)
    bench = offline(world, folder)
    assert answers(bench) == world.targets[1].digest
    bench.agent.turn()
    assert answers(bench) == world.targets[1].digest
    (folder / "slots" / world.targets[1].digest / "weights.bin").write_bytes(b"rot")
    assert answers(offline(world, folder)) == world.targets[0].digest, "what ran before it is known, too"


def zeros(path: Path) -> None:
    path.write_bytes(b"\0" * 100)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"")


def test_nothing_beside_the_slots_can_silence_a_device(world: World, tmp_path: Path) -> None:
    beside = [path for path in world.past.rglob("*") if path.relative_to(world.past).parts[0] != "slots" and not path.is_symlink()]
    assert {"state.json", "held.json", "tuf", "timestamp.json"} <= {path.name for path in beside}
    for path in beside:
        rots: Sequence[Callable[[Path], object]] = (shutil.rmtree, file_instead) if path.is_dir() else (Path.unlink, zeros, folder_instead)
        for number, rot in enumerate(rots):
            folder = tmp_path / f"{path.name}-{number}"
            shutil.copytree(world.past, folder, symlinks=True)
            rot(folder / path.relative_to(world.past))
            bench = AgentBench(folder, world.trust)
            bench.assign(world.targets[1], 3)
            bench.agent.turn()
            assert answers(bench) == world.targets[1].digest, folder.name


def test_a_lost_record_is_begun_anew_with_its_floors(world: World, folder: Path) -> None:
    before = offline(world, folder).device.record.current
    (folder / "state.json").unlink()
    record = offline(world, folder).device.record.current
    assert (record.incumbent, record.previous, record.floors) == (before.incumbent, before.previous, before.floors)


def test_with_every_record_rotten_a_slot_that_proves_itself_answers_and_stays(world: World, folder: Path) -> None:
    bench = offline(world, folder)
    bench.device.slots.stage(world.bad.path, world.bad.sha256)  # newer, never confirmed, and its golden samples do not hold
    for name in ("state.json", "held.json"):
        (folder / name).write_bytes(b"rot")
    assert answers(offline(world, folder)) == world.targets[1].digest
    again = offline(world, folder)
    assert answers(again) == world.targets[1].digest
    assert again.device.models.started == [world.targets[1].digest], "found once, then known"
    again.error = None
    again.assign(world.targets[1], 9)
    again.agent.turn()
    again.agent.turn()
    assert again.states()[-1] == "CONFIRMED"


@pytest.mark.parametrize("held", [True, False])
def test_a_record_of_a_newer_kdpipe_is_left_alone_and_the_device_answers(world: World, folder: Path, held: bool) -> None:
    newer = b'{"version": 99}'
    (folder / "state.json").write_bytes(newer)
    if not held:
        (folder / "held.json").unlink()
    bench = AgentBench(folder, world.trust)
    bench.assign(world.targets[0], 9)
    for _ in range(3):
        bench.agent.turn()
    assert answers(bench) == world.targets[1].digest
    assert (folder / "state.json").read_bytes() == newer
    assert "version 99" in bench.agent.status.blocked
    assert "delete" not in bench.agent.status.blocked
    assert bench.requests[-1].running_digest == world.targets[1].digest, "its fleet sees it"
    assert bench.device.record.current.state is State.IDLE, "and it installs nothing"


def test_a_record_that_the_disk_does_not_give_out_is_left_alone(world: World, folder: Path) -> None:
    (folder / "state.json").unlink()
    (folder / "state.json").mkdir()  # reads as EISDIR; a worn-out card says EIO
    bench = offline(world, folder)
    assert answers(bench) == world.targets[1].digest
    assert "state.json" in bench.agent.status.blocked


def test_with_a_rotten_record_and_a_full_disk_it_answers(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "state.json").write_bytes(b"rot")
    with monkeypatch.context() as patch:
        patch.setattr("workers.edge.folder.write_atomic", full)
        assert answers(offline(world, folder)) == world.targets[1].digest
    bench = AgentBench(folder, world.trust)
    bench.assign(world.targets[0], 9)
    bench.agent.turn()
    assert answers(bench) == world.targets[0].digest


def full(path: Path, data: bytes) -> None:
    raise OSError(28, "No space left on device", str(path))


def test_a_held_file_that_could_not_be_written_is_written_at_the_next_start(world: World, folder: Path) -> None:
    right = (folder / "held.json").read_bytes()
    write_atomic(folder / "held.json", b"rot")
    offline(world, folder)
    assert (folder / "held.json").read_bytes() == right


def test_an_identity_that_rotted_is_shown_as_what_blocks_and_heals(world: World, folder: Path) -> None:
    bench = AgentBench(folder, world.trust)
    bench.error = IdentityBrokenError("identity", "not a key")
    bench.agent.turn()
    assert answers(bench) == world.targets[1].digest
    assert "not a key" in bench.agent.status.blocked
    bench.error = None
    bench.agent.turn()
    assert bench.agent.status.blocked == ""


class Killed(BaseException):
    """The supervisor waits no longer."""


def hanging(digest: str, error: type[BaseException], models: Models) -> Callable[[Slot, int], TableModel]:
    def start(slot: Slot, niceness: int) -> TableModel:
        if slot.digest == digest:
            raise error(digest, "no answer")
        return models.start(slot, niceness)

    return start


def test_a_model_whose_start_outlasts_every_supervisor_gives_way_to_the_one_before(world: World, folder: Path) -> None:
    start = hanging(world.targets[1].digest, Killed, Models())
    for _ in range(BOOT_TRIES):
        with pytest.raises(Killed):
            offline(world, folder, start=start)
    bench = offline(world, folder, start=start)
    assert answers(bench) == world.targets[0].digest
    assert bench.device.record.current.state is State.ROLLED_BACK


def test_the_only_release_is_tried_again_each_turn_and_not_downloaded_again(world: World, tmp_path: Path) -> None:
    bench = AgentBench(tmp_path / "device", world.trust)
    bench.assign(world.targets[0], 1)
    bench.agent.turn()
    fetched, digest = bench.device.fetched, world.targets[0].digest
    bench.device.models.deadly[digest] = 0
    for _ in range(6):
        for _ in range(DEATHS_ALLOWED):
            with pytest.raises(ModelDiedError):
                bench.device.serving.predict(TEXTS)
        bench.agent.turn()
    assert (bench.device.record.current.state, bench.device.record.current.code) == (State.FAILED, NO_WAY_BACK)
    assert bench.states().count("CHECK") == 1
    assert bench.states()[-1] == "FAILED"
    assert bench.device.fetched == fetched
    bench.device.models.deadly.clear()
    assert answers(bench) == digest


def test_an_only_release_that_does_not_come_up_at_boot_answers_when_it_does(world: World, tmp_path: Path) -> None:
    bench = AgentBench(tmp_path / "device", world.trust)
    bench.assign(world.targets[0], 1)
    bench.agent.turn()
    models, short = Models(), [True]

    def start(slot: Slot, niceness: int) -> TableModel:
        if short[0]:
            raise ModelDiedError(slot.digest, "no memory")
        return models.start(slot, niceness)

    again = offline(world, tmp_path / "device", start=start)
    with pytest.raises(NoModelError):
        answers(again)
    short[0] = False
    again.agent.turn()
    assert answers(again) == world.targets[0].digest


def test_a_release_may_cure_what_kills_the_incumbent(world: World, tmp_path: Path) -> None:
    """The incumbent dies on the candidate's golden samples: that is not the candidate's failure."""
    bench = AgentBench(tmp_path / "device", world.trust)
    first: ReleaseTarget = world.targets[0]
    bench.assign(first, 1)
    bench.agent.turn()
    bench.device.models.deadly[first.digest] = 0
    bench.assign(world.targets[1], 2)
    bench.agent.turn()
    assert answers(bench) == world.targets[1].digest
    trial = next(r for q in bench.requests for r in q.reports if r.generation == 2 and r.HasField("shadow"))
    assert (trial.shadow.samples, trial.shadow.golden_only) == (0, True)
    assert "not compared" in trial.detail
