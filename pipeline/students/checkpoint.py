"""What of a training must survive, as one dict in one file.

`{cursor, model, optimiser, schedule, step, seed, rng, ...}`, written with torch.save to a temporary file that is renamed into place, so a
crash leaves the checkpoint before or the one after; the one before that is kept too. Read with `weights_only=True`: no pickle
runs. Left to others: what the values mean (`loop`).
"""

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import StudentError
from pipeline.files import make_private_folder, read_bounded, write_atomic

VERSION = 1
"""Of what a finished training left behind."""
STATE_VERSION = 2
"""Of a checkpoint: what `loop.Trainer.state` has."""
MAX_BYTES = 4 << 30
KEPT = 2


class CheckpointInvalidError(StudentError):
    """A checkpoint or weights file that is damaged, of another version or of another student."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(path, found, expected)
        self.path, self.found, self.expected = path, found, expected

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; expected {self.expected}; delete it to train from the checkpoint before, or afresh"


def copied(tree: Any) -> Any:
    """A tree of dicts, lists, tuples, tensors and plain values that shares nothing with this one; its tensors are on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(copied(value) for value in tree)
    return tree


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> Path:
    """Make `state` durable as the newest checkpoint; older ones beyond KEPT go afterwards."""
    make_private_folder(folder)
    path = folder / f"step-{state['step']:010d}.pt"
    write_atomic(path, _to_bytes({"version": STATE_VERSION, **state}))
    for old in sorted(folder.glob("step-*.pt"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def newest_step(folder: Path) -> int:
    """Of the newest checkpoint, whether it reads or not; -1 where there is none."""
    return max((int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt")), default=-1)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that reads, None where there is none. Raises CheckpointInvalidError if there are some and none reads."""
    failure: CheckpointInvalidError | None = None
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            state = _from_file(path)
            if state.pop("version", None) != STATE_VERSION:
                raise CheckpointInvalidError(str(path), "another version", f"version {STATE_VERSION}")
            return state
        except CheckpointInvalidError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training left behind, beside its weights (`weights_sha256` ties the two files)."""

    name: str
    spec: str
    """Whoever wrote it says what it was made of; the same text means the same training."""
    steps: int
    seconds: float
    """Of training, without waiting for labels."""
    live_rows: int
    rows: int
    """Labels seen, replays included."""
    epochs: int
    skipped_steps: int
    history: tuple[tuple[int, float], ...]
    """(step, mean loss since the entry before)."""
    parameters: int
    warm: bool
    teacher: str
    first_step_unix_s: float
    last_step_unix_s: float
    warnings: tuple[str, ...]
    weights_sha256: str
    version: int = VERSION


def save_weights(path: Path, model: Mapping[str, Tensor]) -> str:
    """Write a state dict. Returns the hex SHA-256 of the file."""
    data = _to_bytes(dict(model))
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict. Raises CheckpointInvalidError."""
    return _from_file(path)


def sidecar_of(weights: Path) -> Path:
    return weights.with_name(weights.name + ".json")


def save_trained(weights: Path, trained: Trained) -> None:
    """Write the sidecar, after the weights: where it is, the training is over."""
    write_atomic(sidecar_of(weights), json.dumps(asdict(trained), indent=1).encode())


def load_trained(weights: Path) -> Trained | None:
    """The finished training at `weights`, None if it is not finished. A sidecar that does not fit its weights counts as none."""
    try:
        tree = json.loads(read_bounded(sidecar_of(weights), 64 << 20))
        if tree.get("version") != VERSION or hashlib.sha256(read_bounded(weights, MAX_BYTES)).hexdigest() != tree["weights_sha256"]:
            return None
        history = tuple((int(step), float(loss)) for step, loss in tree.pop("history"))
        return Trained(**{**tree, "history": history, "warnings": tuple(tree["warnings"])})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _to_bytes(tree: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getvalue()


def _from_file(path: Path) -> dict[str, Any]:
    try:
        tree = torch.load(io.BytesIO(read_bounded(path, MAX_BYTES)), weights_only=True, map_location="cpu")
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointInvalidError(
            str(path), f"{type(error).__name__} {error}"[:160], "a file that torch.load reads with weights_only"
        ) from error
    if not isinstance(tree, dict):
        raise CheckpointInvalidError(str(path), type(tree).__name__, "a dict")
    return tree
