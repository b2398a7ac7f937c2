"""Checkpoints: atomic, bounded, read without pickle, killed at every instruction."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.students.checkpoint import (
    CheckpointInvalidError,
    Trained,
    load_checkpoint,
    load_trained,
    load_weights,
    save_checkpoint,
    save_trained,
    save_weights,
    sidecar_of,
)


def state_of(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"w": torch.full((3,), float(step))}}


def trained_of(sha256: str, **changes: Any) -> Trained:
    values: dict[str, Any] = {
        "name": "small", "spec": "abc", "steps": 5, "seconds": 1.5, "live_rows": 8, "rows": 40, "epochs": 5, "skipped_steps": 0,
        "history": ((1, 0.5), (5, 0.25)), "parameters": 3, "warm": False, "teacher": "t", "first_step_unix_s": 1.0,
        "last_step_unix_s": 2.0, "warnings": (), "weights_sha256": sha256,
    }  # fmt: skip
    return Trained(**(values | changes))


def test_the_newest_checkpoint_is_read_and_two_are_kept(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for step in (10, 20, 30):
        save_checkpoint(tmp_path / "small", state_of(step))
    found = load_checkpoint(tmp_path / "small")
    assert found is not None
    assert found["step"] == 30
    assert [path.name for path in sorted((tmp_path / "small").iterdir())] == ["step-0000000020.pt", "step-0000000030.pt"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", None])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: bytes | None) -> None:
    save_checkpoint(tmp_path, state_of(10))
    newest = save_checkpoint(tmp_path, state_of(20))
    newest.write_bytes(damage if damage is not None else newest.read_bytes()[:-40])
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found["step"] == 10
    for path in tmp_path.iterdir():
        path.write_bytes(b"gone")
    with pytest.raises(CheckpointInvalidError, match="step-0000000020"):
        load_checkpoint(tmp_path)


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("boom",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    torch.save({"version": 1, "step": 1, "model": Bomb()}, buffer)
    for data in (buffer.getvalue(), pickle.dumps(Bomb())):
        (tmp_path / "step-0000000001.pt").write_bytes(data)
        with pytest.raises(CheckpointInvalidError):
            load_checkpoint(tmp_path)
        with pytest.raises(CheckpointInvalidError):
            load_weights(tmp_path / "step-0000000001.pt")
    assert "boom" not in capsys.readouterr().out


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    torch.save({"version": 3, "step": 1}, tmp_path / "step-0000000001.pt")
    with pytest.raises(CheckpointInvalidError, match="another version; expected version 2"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    save_checkpoint(tmp_path, state_of(10))

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    if call == "fsync":
        monkeypatch.setattr("pipeline.files.os.fsync", crash)
    else:
        monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, state_of(20))
    monkeypatch.undo()
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found["step"] == 10


def test_a_training_is_over_once_its_sidecar_fits_its_weights(tmp_path: Path) -> None:
    out = tmp_path / "weights.pt"
    assert load_trained(out) is None
    digest = save_weights(out, {"w": torch.ones(3)})
    assert load_trained(out) is None, "a crash before the sidecar"
    save_trained(out, trained_of(digest))
    assert load_trained(out) == trained_of(digest)
    save_weights(out, {"w": torch.zeros(3)})
    assert load_trained(out) is None, "weights of another training"
    assert load_weights(out)["w"].equal(torch.zeros(3))
    sidecar_of(out).write_text(json.dumps({"version": 9}))
    assert load_trained(out) is None
