"""Slots: whole or not there, verified each time."""

import contextlib
import os
from pathlib import Path

import pytest

from pipeline.releases.bundle import BundleFile
from pipeline.rollout.slots import SlotCorruptError, SlotMissingError, Slots
from tests.kit.bundles import text_bundle
from tests.kit.kill_switch import KillSwitch


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> BundleFile:
    return text_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_staging_killed_at_any_step_leaves_no_slot_or_the_whole_one(tmp_path: Path, bundle: BundleFile) -> None:
    for step in range(1, 200):
        slots = Slots(tmp_path / str(step))
        with KillSwitch(step) as switch:
            slots.stage(bundle.path, bundle.sha256)
        try:
            assert Slots(tmp_path / str(step)).open(bundle.sha256).manifest.student == "small"
        except SlotMissingError:
            assert switch.fired
        assert slots.stage(bundle.path, bundle.sha256).digest == bundle.sha256
        slots.keep(frozenset({bundle.sha256}))
        assert [p.name for p in (tmp_path / str(step)).iterdir()] == [bundle.sha256]
        if not switch.fired:
            assert step > 20
            return
    raise AssertionError("never ran through")


def test_deleting_killed_at_any_step_never_leaves_half_a_slot_under_its_name(tmp_path: Path, bundle: BundleFile) -> None:
    for step in range(1, 60):
        slots = Slots(tmp_path / str(step))
        slots.stage(bundle.path, bundle.sha256)
        with KillSwitch(step) as switch:
            slots.keep(frozenset())
        with contextlib.suppress(SlotMissingError):
            slots.open(bundle.sha256)
        slots.keep(frozenset())
        assert list((tmp_path / str(step)).iterdir()) == []
        if not switch.fired:
            return
    raise AssertionError("never ran through")


@pytest.mark.parametrize("name", ["manifest.json", "golden.json", "graph.onnx", "weights.bin", "slot.json"])
def test_rot_in_any_file_is_found_before_the_slot_answers(tmp_path: Path, bundle: BundleFile, name: str) -> None:
    slots = Slots(tmp_path / "slots")
    folder = slots.stage(bundle.path, bundle.sha256).folder
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(SlotCorruptError):
        slots.open(bundle.sha256)
    (folder / name).unlink()
    with pytest.raises(SlotCorruptError):
        slots.open(bundle.sha256)


@pytest.mark.parametrize("digest", ["../..", "", "a" * 64, ".tmp-x"])
def test_a_slot_is_opened_by_digest_and_nothing_else(tmp_path: Path, digest: str) -> None:
    with pytest.raises(SlotMissingError):
        Slots(tmp_path).open(digest)
