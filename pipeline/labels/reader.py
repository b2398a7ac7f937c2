"""Batches of labelled samples for a trainer, in the order of `order`, while the log still grows.

A read never waits: it gives a batch, says that the tail is not there yet, or that the epoch is over. It sees committed, checked bytes
only. A shard that went bad raises ShardCorruptError; once the log has its repair the same read succeeds, with the same samples at
the same positions. Plain objects, no Ray: one reader per rank, each with its own cursor or all with the same.
"""

import functools
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import LabelStoreError
from pipeline.labels.codecs import SparseLabels
from pipeline.labels.intervals import Intervals
from pipeline.labels.log import LogReader
from pipeline.labels.order import Cursor, EpochOrder, Piece, batch_span, epoch_order, pieces, rank_slice
from pipeline.labels.state import LogState
from pipeline.labels.store import Store
from pipeline.labels.window import Matrix, Narrow, Rows, Window, column_of, joined
from pipeline.labels.windows import Windows

DECODED_BYTES = 2**23
"""Of rows taken and decoded at a time, which all batches of them share: each call gives the interpreter up, and while the next window is
loaded waits to have it again. A quarter of this was seen to cost a quarter more a row."""


class CursorForeignError(LabelStoreError):
    """A cursor of another log, seed, batch or generation: going on from it would repeat or skip samples."""

    def __init__(self, what: str, found: str, expected: str) -> None:
        super().__init__(what, found, expected)
        self.what, self.found, self.expected = what, found, expected

    def __str__(self) -> str:
        return (
            f"the checkpoint's cursor has {self.what} {self.found}; expected {self.expected}; "
            "was the run file changed since? `kdpipe run --dry-run` says which student starts afresh"
        )


class LogEmptyError(LabelStoreError):
    """Nobody has planned any labelling here yet."""

    def __str__(self) -> str:
        return "the label log is empty; expected a plan; `kdpipe run` plans the source before trainers start"


@dataclass(frozen=True, kw_only=True)
class LabelBatch:
    """B samples, this rank's slice of a batch; B may be 0 for a rank, and is short only at the end of an epoch."""

    cursor_after: Cursor
    given: pa.Array | Matrix
    """The inputs, as `inputs` or `inputs_BF` has them."""
    narrow: Narrow
    """What the properties give, from when they are asked for."""
    log_probs_BK: NDArray[np.float32]
    """Every class; what a sparse codec left out is spread evenly."""
    recorded: SparseLabels | None
    """What a sparse codec kept; None where every class was."""
    weight_B: NDArray[np.float32]
    """1, or 0 for a sample that was forgotten, or whose file was replaced before this generation."""
    embedding_BD: NDArray[np.float32] | None
    """What the teacher sees in the inputs; NaN in the rows of shards that were written without, None if all were."""
    teacher: str
    codecs: frozenset[str]
    """By which the labels are stored; empty for such as never were."""
    batch_rows: int
    """Rows of the whole batch, over all ranks."""

    @property
    def nbytes(self) -> int:
        """Of what is wide."""
        return int(self.given.nbytes) + self.log_probs_BK.nbytes

    @cached_property
    def inputs(self) -> pa.Array:
        """Texts, or lists of numbers."""
        return column_of(self.given)

    @property
    def inputs_BF(self) -> NDArray[Any] | None:
        """The inputs as rows of F numbers, for the batch's owner to write to; None where they are none, or of several lengths."""
        return self.given.rows if isinstance(self.given, Matrix) else None

    @property
    def rows_B(self) -> NDArray[np.int64]:
        """Global row numbers."""
        return cast(NDArray[np.int64], self.narrow["row"])

    @property
    def entropy_B(self) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], self.narrow["entropy"])

    @property
    def margin_B(self) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], self.narrow["margin"])

    @property
    def disagreement_B(self) -> NDArray[np.float32]:
        """NaN where the teacher is one model."""
        return cast(NDArray[np.float32], self.narrow["disagreement"])

    @property
    def agreement_B(self) -> NDArray[np.float32]:
        """The teacher's probability of the hard label; NaN where there is none, or it is none of the classes."""
        return cast(NDArray[np.float32], self.narrow["agreement"])

    @cached_property
    def sample_ids(self) -> list[str]:
        return [*self.narrow["sample_id"].to_numpy(zero_copy_only=False)]

    @cached_property
    def hard_label(self) -> list[str | None]:
        """None where the source has none."""
        return [*self.narrow["label"].to_numpy(zero_copy_only=False)]


@dataclass(frozen=True)
class NotYet:
    """The batch at this cursor is not sealed yet."""


@dataclass(frozen=True)
class EndOfEpoch:
    """The cursor is at the end of its epoch; `next` is the start of the next one."""

    next: Cursor


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """The rows at the places [start, stop) of a window, of which the next batches are pieces."""

    window: Window
    start: int
    stop: int
    rows: Rows


@functools.lru_cache
def _named(teachers: frozenset[str]) -> str:
    return "+".join(sorted(teachers))


class LabelReader:
    """One rank's view of the labels of one generation."""

    def __init__(
        self,
        store: Store,
        *,
        generation: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        mixed_teachers: bool = False,
    ) -> None:
        if not 0 <= rank < world or batch < 1:
            raise ValueError(f"rank {rank} of {world}, batch {batch}")
        self._log = LogReader(store)
        self._generation, self._batch, self._seed = generation, batch, seed
        self._rank, self._world = rank, world
        self._order: tuple[tuple[int, int, bool], EpochOrder] | None = None
        self._weighed: tuple[LogState, Intervals] | None = None
        self._held: _Decoded | None = None
        self._windows = Windows(store, self._log, seed=seed, mixed_teachers=mixed_teachers)

    def start(self) -> Cursor:
        """The first position of the live pass. Raises LogEmptyError before the first plan."""
        state = self._log.refresh()
        if not state.log:
            raise LogEmptyError
        return Cursor(log=state.log, seed=self._seed, batch=self._batch, generation=self._generation, epoch=0, pos=0)

    def read(self, cursor: Cursor) -> LabelBatch | NotYet | EndOfEpoch:
        """The batch at `cursor`.

        Raises CursorForeignError, ShardCorruptError, ShardUnknownError, MixedTeachersError, MixedEmbeddingsError.
        """
        order = self._epoch(cursor.epoch)
        span = batch_span(order, cursor.pos, self._batch)
        if span is None:
            self._log.refresh()
            order = self._epoch(cursor.epoch)
            span = batch_span(order, cursor.pos, self._batch)
        self._refuse_foreign(cursor)
        if span is None:
            return NotYet()
        if span[1] <= span[0]:
            return EndOfEpoch(next=replace(cursor, epoch=cursor.epoch + 1, pos=0))
        found = pieces(order, *rank_slice(*span, rank=self._rank, world=self._world))
        if not found:  # a rank without rows still needs columns of the right types
            first = pieces(order, span[0], span[0] + 1)[0]
            found = [replace(first, stop=first.start)]
        return self._batch_of(found, epoch=cursor.epoch, cursor_after=cursor.at(span[1]), batch_rows=span[1] - span[0])

    def rows_known(self, epoch: int) -> tuple[int, bool]:
        """Rows of an epoch as far as the log has them, and whether more may come. Reads the log's tail."""
        self._log.refresh()
        order = self._epoch(epoch)
        return order.rows, not order.closed

    def _epoch(self, epoch: int) -> EpochOrder:
        state = self._log.state
        basis = (epoch, len(state.windows), self._generation in state.ends)
        if self._order is None or self._order[0] != basis:
            self._order = basis, epoch_order(state, generation=self._generation, epoch=epoch, seed=self._seed)
        return self._order[1]

    def _batch_of(self, found: list[Piece], *, epoch: int, cursor_after: Cursor, batch_rows: int) -> LabelBatch:
        windows = [self._window(piece.window, epoch) for piece in found]
        rows = joined([self._rows(window, piece) for window, piece in zip(windows, found, strict=True)])
        embedding_BD = rows.embedding_BD
        return LabelBatch(
            cursor_after=cursor_after,
            given=rows.inputs,
            narrow=rows.narrow,
            log_probs_BK=rows.log_probs_BK,
            recorded=rows.recorded,
            weight_B=self._weights(rows),
            embedding_BD=None if embedding_BD is None else embedding_BD.astype(np.float32),
            teacher=_named(frozenset.union(*(window.teachers for window in windows))),
            codecs=frozenset.union(*(window.codecs for window in windows)),
            batch_rows=batch_rows,
        )

    def _rows(self, window: Window, piece: Piece) -> Rows:
        if self._world > 1:  # between a rank's rows lie those of the others
            return window.rows(piece.start, piece.stop)
        held = self._held
        if held is None or held.window is not window or not held.start <= piece.start <= piece.stop <= held.stop:
            batches = max(1, DECODED_BYTES // (window.row_bytes * self._batch))
            stop = min(max(piece.start + batches * self._batch, piece.stop), len(window.shuffled_N))
            held = self._held = _Decoded(window=window, start=piece.start, stop=stop, rows=window.rows(piece.start, stop))
        return held.rows.piece(piece.start - held.start, piece.stop - held.start)

    def _weights(self, rows: Rows) -> NDArray[np.float32]:
        state = self._log.state
        if self._weighed is None or self._weighed[0] is not state:
            self._weighed = state, state.weightless(self._generation)
        weight_B = np.ones(len(rows.log_probs_BK), dtype=np.float32)
        if weightless := self._weighed[1]:
            weight_B[weightless.mask(rows.narrow["row"])] = 0
        return weight_B

    def _window(self, window: int, epoch: int) -> Window:
        held = self._windows.held(window, epoch)
        return held or self._windows.load(window, epoch, after=self._epoch(epoch).after(window))

    def _refuse_foreign(self, cursor: Cursor) -> None:
        if (cursor.log, cursor.seed, cursor.batch, cursor.generation) == (self._log.state.log, self._seed, self._batch, self._generation):
            return
        mine = {"log": self._log.state.log, "seed": self._seed, "batch": self._batch, "generation": self._generation}
        for what, expected in mine.items():
            if getattr(cursor, what) != expected:
                raise CursorForeignError(what, repr(getattr(cursor, what)), repr(expected))
