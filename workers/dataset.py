"""The labels of a run as an ordinary PyTorch data set, for a training loop of one's own: without Ray, with or without `torchrun`.

    labels = LabelDataset("runs/spam/labels", batch=64)
    for epoch in range(3):
        for batch in DataLoader(labels, batch_size=None): ...

The first time through is the live pass, which waits for labels that are not there yet; every further one replays in another order. The
order is that of kdpipe's own trainers: a function of (log, seed, epoch), whatever the number of ranks; each rank gets its slice of every
batch, and all ranks the same number of batches. `state_dict` says where the last batch that was handed out ended; a data set with that
state goes on from exactly there: its first time through is what was left of that epoch.
The next batches are read while the last ones are learnt from.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.errors import ConfigError, LabelStoreError
from pipeline.labels.log import LogReader
from pipeline.labels.order import Cursor
from pipeline.labels.prefetch import ReadingAhead
from pipeline.labels.reader import EndOfEpoch, LabelBatch, LabelReader, NotYet
from pipeline.labels.state import LogState
from pipeline.labels.store import open_store
from pipeline.students.lessons import recorded_of

POLL_S = 0.05


class NoLabelsThereError(LabelStoreError):
    """A place where nobody has planned any labelling: a mistyped one, or one of a run that has not begun."""

    def __init__(self, labels: str) -> None:
        super().__init__(labels)
        self.labels = labels

    def __str__(self) -> str:
        return f"{self.labels}: no label log; expected DIR/labels of a run, or a `labelling.store`; correct it, or start `kdpipe run` first"


def _owned(values: NDArray[np.float32]) -> torch.Tensor:
    """A copy: the reader's own may not be written to."""
    return torch.from_numpy(values.copy())


_COLUMNS: Mapping[str, Callable[[LabelBatch], Any]] = {
    "sample_id": lambda batch: batch.sample_ids,
    "inputs": lambda batch: batch.inputs.to_pylist() if batch.inputs_BF is None else torch.from_numpy(batch.inputs_BF),
    "log_probs": lambda batch: torch.from_numpy(batch.log_probs_BK),
    "label": lambda batch: batch.hard_label,
    "weight": lambda batch: torch.from_numpy(batch.weight_B),
    "entropy": lambda batch: _owned(batch.entropy_B),
    "margin": lambda batch: _owned(batch.margin_B),
    "disagreement": lambda batch: _owned(batch.disagreement_B),
    "agreement": lambda batch: _owned(batch.agreement_B),
    "recorded": lambda batch: recorded_of(batch.recorded),
    "embedding": lambda batch: None if batch.embedding_BD is None else torch.from_numpy(batch.embedding_BD),
}


class LabelDataset(IterableDataset[dict[str, Any]]):
    """Batches as dicts of B samples, this rank's slice: `batch` // ranks or one more, fewer at an epoch's end, perhaps none.

    `sample_id`   list[str]
    `inputs`      float32 [B, F] for rows of numbers of one length, else a list (of texts, or of lists)
    `log_probs`   float32 [B, K], the teacher's, natural, at temperature 1
    `label`       list[str | None], the source's own
    `weight`      float32 [B], 0 for a sample that counts for nothing
    `entropy`, `margin`, `disagreement`, `agreement`   float32 [B], NaN where there is none
    `recorded`    `pipeline.distill.losses.Recorded`, what a sparse codec kept of the labels; None where it kept every class
    `embedding`   float32 [B, D], what the teacher sees, NaN in rows without; None where no row has one
    `batch_rows`  int, over all ranks: divide the sum of losses by it

    With `columns`, those and `batch_rows`: what nobody asks for is not put in order, copied or made into lists.

    Raises NoLabelsThereError, ConfigError for what cannot be meant, and what `LabelReader` raises.
    """

    def __init__(
        self,
        labels: str,
        *,
        batch: int,
        generation: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
        mixed_teachers: bool = False,
        columns: Collection[str] | None = None,
        wait: Callable[[], None] = lambda: time.sleep(POLL_S),
    ) -> None:
        """`labels` is DIR/labels or a store's URL; without `generation`, the newest that has labels. Rank and world are those of
        `torch.distributed` when reading begins, unless given. With `mixed_teachers` labels of teachers that differ are read, too.

        `wait` is called while the next labels are not there yet; what it raises ends the iteration. Raises ConfigError.
        """
        if (rank is None) != (world is None):
            raise ConfigError("LabelDataset", f"rank = {rank}, world = {world}", "both, or neither")
        if unknown := sorted({*(columns or ())} - {*_COLUMNS}):
            raise ConfigError("columns", ", ".join(unknown), f"some of {', '.join(_COLUMNS)}")
        self._columns = [name for name in _COLUMNS if columns is None or name in columns]
        self._options: dict[str, Any] = {"batch": batch, "seed": seed, "mixed_teachers": mixed_teachers}
        self._rank, self._world = rank, world
        self._labels, self._generation, self._wait = labels, generation, wait
        self._cursor: Cursor | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        workers = get_worker_info()
        if workers is not None:
            copied = f"num_workers = {workers.num_workers}: a copy in a process of its own, whose place is lost with it"
            raise ConfigError("DataLoader", copied, "num_workers = 0: the data set reads ahead by itself")
        reader = ReadingAhead(self._reader(), epochs=False)  # each epoch has a reader of its own
        try:
            cursor = self._cursor or reader.start()
            while not isinstance(found := reader.read(cursor), EndOfEpoch):
                if isinstance(found, NotYet):
                    self._wait()
                else:
                    cursor = self._cursor = found.cursor_after
                    yield {name: _COLUMNS[name](found) for name in self._columns} | {"batch_rows": found.batch_rows}
            self._cursor = found.next
        finally:
            reader.close()

    def _reader(self) -> LabelReader:
        store = open_store(self._labels)
        state = LogReader(store).refresh()
        if not state.log:
            raise NoLabelsThereError(self._labels)
        if self._generation is None:  # of a saved place, its own
            self._generation = self._cursor.generation if self._cursor else state.newest_generation
        _refuse_never(self._generation, state)
        rank, world = _place() if self._rank is None or self._world is None else (self._rank, self._world)
        return LabelReader(store, generation=self._generation, rank=rank, world=world, **self._options)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"cursor": asdict(self._cursor) if self._cursor else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with any number of ranks. Reading raises CursorForeignError if log, seed, batch or generation differ."""
        self._cursor = Cursor(**state["cursor"]) if state["cursor"] else None


def _place() -> tuple[int, int]:
    """Rank and world of the process group. Raises ConfigError where there is none and a launcher started several processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    started = os.environ.get("WORLD_SIZE", "1")
    if started != "1":
        raise ConfigError(
            "LabelDataset",
            f"WORLD_SIZE is {started} and there is no process group, so that each rank would read every sample",
            "a group, or `rank` and `world`",
            "call torch.distributed.init_process_group before the first batch",
        )
    return 0, 1


def _refuse_never(generation: int, state: LogState) -> None:
    """Raises ConfigError for a generation whose labels never come: generations end one after the other, and the next may be waited for.

    A log without an ended one may begin with any: the labels of older ones were thrown away.
    """
    ended = max(state.ends, default=0)
    if generation < 1 or (ended and generation not in state.ends and generation != ended + 1):
        raise ConfigError("LabelDataset", f"generation = {generation}", f"one that ended ({_shown(state.ends)}), or {ended + 1}, the next")


def _shown(ends: Collection[int]) -> str:
    return f"{min(ends)} to {max(ends)}" if len(ends) > 1 else ", ".join(map(str, ends)) or "none so far"
