"""A device takes the fewest bytes, and whatever is wrong with them costs it bytes and nothing else."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.releases.target import DeltaFile, ReleaseTarget
from pipeline.rollout.device import State
from pipeline.rollout.device_file import from_json, to_json
from tests.kit.bundles import NOW, TEXTS, Trust, moved_table, text_bundle, text_probabilities
from tests.kit.devices import Device
from tests.kit.kill_switch import KillSwitch
from workers.edge.download import part_path
from workers.edge.fleet_client import FleetUnreachableError


class World:
    """Two releases, the second with a delta from the first and one from nothing; a device that runs the first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trust = folder, Trust.make(folder / "fleet")
        self.bundles = [text_bundle(folder, release=1), text_bundle(folder, release=2, table=moved_table())]
        self.first = self.trust.publish(self.bundles[0], release=1)
        self.second = self.trust.publish(self.bundles[1], release=2, deltas_from=[self.bundles[0]])
        Device(folder / "first", self.trust).install(self.first, 1)
        self.packed, self.delta = sorted(self.second.deltas, key=lambda delta: delta.source)

    def device(self, folder: Path, *, fresh: bool = False) -> Device:
        if not fresh:
            shutil.copytree(self.folder / "first", folder)
        made = Device(folder, self.trust)
        made.boot()
        return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield World(tmp_path_factory.mktemp("world"))


def said(made: Device) -> str:
    return next(report.detail for report in made.record.current.reports if report.state is State.VERIFY and report.generation == 2)


def check(made: Device, target: ReleaseTarget) -> None:
    answer = made.serving.predict(TEXTS)
    assert (made.record.current.state, answer.slot.digest) == (State.CONFIRMED, target.digest)
    for text, row in zip(TEXTS, answer.probabilities_BK, strict=True):
        assert row == pytest.approx(text_probabilities(text, moved_table()), abs=1e-4)
    assert list(made.folder.downloads.iterdir()) == []


def test_a_device_that_has_the_base_fetches_the_delta_alone(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.install(world.second, 2)
    came = from_json(to_json(made.record.current)).arrival
    assert came is not None
    assert (came.digest, came.way, came.fetched_bytes) == (world.second.digest, "delta", world.delta.length)
    check(made, world.second)
    assert made.fetched == [(world.delta.digest, world.delta.length)]
    assert world.delta.length < world.packed.length < world.second.length
    assert said(made) == f"delta from {world.first.digest[:12]}, {world.delta.length} bytes for {world.second.length}"


def test_a_device_that_has_nothing_fetches_the_packed_bundle(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device", fresh=True)
    made.install(world.second, 2)
    check(made, world.second)
    assert made.fetched == [(world.packed.digest, world.packed.length)]
    assert said(made).startswith("packed bundle")


def test_a_base_that_went_bad_is_found_and_the_packed_bundle_fetched(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.assign(world.second, 2)
    weights = made.slots.open(world.first.digest).folder / "weights.bin"
    weights.write_bytes(b"rot" + weights.read_bytes()[3:])
    made.serving.close()
    made.record.save(from_json(to_json(made.record.current)))
    made.installer.advance()
    assert made.fetched == [(world.packed.digest, world.packed.length)]
    assert "weights.bin changed" in said(made)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1] + b"~", lambda data: data + b"more", lambda data: b""], ids=["flipped", "longer", "empty"]
)
def test_a_delta_that_is_not_the_signed_one_ends_in_the_whole_bundle(world: World, tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    made = world.device(tmp_path / "device")
    made.rewrite = lambda data: spoil(data) if len(data) < world.second.length else data
    if spoil(b"0") == b"":  # a stream that ends early is no proof of anything: it is tried again
        with pytest.raises(FleetUnreachableError):
            made.install(world.second, 2)
        return
    made.install(world.second, 2)
    check(made, world.second)
    assert made.fetched[-1] == (world.second.digest, world.second.length)
    assert said(made).count("refused") == 2


def test_a_signed_delta_that_makes_other_bytes_ends_in_the_whole_bundle(world: World, tmp_path: Path) -> None:
    trust = Trust.make(tmp_path / "fleet")
    trust.publish(world.bundles[0], release=1)
    wrong = DeltaFile(source=world.first.digest, digest=world.delta.digest, length=world.delta.length)
    third = text_bundle(tmp_path, release=3, table=moved_table(rows=5))
    target = trust.publish(third, release=3, deltas=(wrong,))
    (trust.repository / "bundles" / wrong.digest).write_bytes((world.trust.repository / "bundles" / wrong.digest).read_bytes())
    made = Device(tmp_path / "device", trust)
    made.install(world.first, 1)
    assert made.install(target, 2).state is State.CONFIRMED
    assert [digest for digest, _ in made.fetched[1:]] == [wrong.digest, target.digest]
    assert "refused: delta: found" in said(made)


def test_deltas_that_the_server_does_not_have_end_in_the_whole_bundle(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.missing = {world.delta.digest, world.packed.digest}
    made.install(world.second, 2)
    check(made, world.second)
    assert made.fetched == [(world.second.digest, world.second.length)]


def test_a_shortcut_that_is_cut_goes_on_where_it_stopped_after_a_restart(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device", fresh=True)
    made.cut_after_bytes = 512
    with pytest.raises(FleetUnreachableError):
        made.install(world.second, 2)
    assert part_path(made.folder.downloads, world.packed.digest).stat().st_size == 512
    again = Device(tmp_path / "device", world.trust)
    again.boot()
    again.installer.advance()
    check(again, world.second)
    assert again.fetched == [(world.packed.digest, world.packed.length - 512)]


def test_a_download_that_began_whole_goes_on_whole(world: World, tmp_path: Path) -> None:
    made = world.device(tmp_path / "device")
    made.folder.downloads.mkdir(exist_ok=True)
    part_path(made.folder.downloads, world.second.digest).write_bytes(world.bundles[1].path.read_bytes()[:1000])
    made.install(world.second, 2)
    check(made, world.second)
    assert made.fetched == [(world.second.digest, world.second.length - 1000)]


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_touch_of_the_disk_it_answers_and_then_finishes(world: World, tmp_path: Path, stride: int) -> None:
    for step in range(1, 1000, stride):
        folder = tmp_path / str(step)
        made = world.device(folder)
        with KillSwitch(step) as switch:
            made.install(world.second, 2)
        again = Device(folder, world.trust, now=NOW)
        again.boot()
        assert again.serving.predict(TEXTS).slot.digest in (world.first.digest, world.second.digest)
        again.assign(world.second, 2)
        again.installer.advance()
        check(again, world.second)
        shutil.rmtree(folder)
        if not switch.fired:
            return
    pytest.fail("an install never ended")
