"""Labels held in memory, in the reading protocol of `pipeline.labels`: for the honest control, benchmarks and tests.

The order is a seeded permutation per epoch, as in a replay; the live pass is epoch 0 in the same manner. It knows no names of classes, so
there is no agreement with the hard labels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.labels.codecs import SparseLabels
from pipeline.labels.evidence import entropy_nats, margin
from pipeline.labels.order import Cursor, permutation
from pipeline.labels.reader import EndOfEpoch, LabelBatch
from pipeline.labels.window import Matrix, Narrow, wide


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What N labels may say beyond a distribution, as `LabelBatch` has it."""

    disagreement_N: NDArray[np.float32] | None = None
    recorded: SparseLabels | None = None
    embedding_ND: NDArray[np.float32] | None = None


class MemoryReader:
    """N samples, each with the teacher's log-probabilities and, where there is one, a hard label."""

    def __init__(
        self,
        *,
        sample_ids: Sequence[str],
        inputs: Any,
        log_probs_NK: NDArray[np.float32],
        hard_label: Sequence[str | None],
        teacher: str,
        batch: int,
        seed: int,
        agreement_N: NDArray[np.float32] | None = None,
        extras: Extras | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._ids, self._hard, self._teacher = pa.array(sample_ids, pa.string()), pa.array(hard_label, pa.string()), teacher
        self._inputs = wide(pa.chunked_array([inputs if isinstance(inputs, pa.Array) else pa.array(inputs)]))
        self._log_probs_NK = log_probs_NK
        self._extras, nan_N = extras or Extras(), np.full(len(self._ids), np.nan, dtype=np.float32)
        self._agreement_N = nan_N if agreement_N is None else agreement_N
        self._disagreement_N = nan_N if self._extras.disagreement_N is None else self._extras.disagreement_N
        self._batch, self._seed, self._rank, self._world = batch, seed, rank, world
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def start(self) -> Cursor:
        name = hashlib.blake2b("\0".join(self._ids.to_pylist()).encode(), digest_size=8).hexdigest()
        return Cursor(log=f"memory-{name}", seed=self._seed, batch=self._batch, generation=1, epoch=0, pos=0)

    def read(self, cursor: Cursor) -> LabelBatch | EndOfEpoch:
        total = len(self._ids)
        if cursor.pos >= total:
            return EndOfEpoch(next=replace(cursor, epoch=cursor.epoch + 1, pos=0))
        if self._order is None or self._order[0] != cursor.epoch:
            self._order = cursor.epoch, permutation(total, self._seed, cursor.epoch)
        stop = min(cursor.pos + self._batch, total)
        rows = stop - cursor.pos
        first, last = (cursor.pos + rows * edge // self._world for edge in (self._rank, self._rank + 1))
        rows_B = self._order[1][first:last]
        log_probs_BK = self._log_probs_NK[rows_B]
        return LabelBatch(
            cursor_after=replace(cursor, pos=stop),
            given=self._inputs.taken(rows_B) if isinstance(self._inputs, Matrix) else self._inputs.take(pa.array(rows_B)),
            narrow=Narrow(self._narrow(rows_B, log_probs_BK), 0, len(rows_B)),
            log_probs_BK=log_probs_BK,
            recorded=self._recorded(rows_B),
            weight_B=np.ones(len(rows_B), dtype=np.float32),
            embedding_BD=None if self._extras.embedding_ND is None else self._extras.embedding_ND[rows_B],
            teacher=self._teacher,
            codecs=frozenset(),
            batch_rows=rows,
        )

    def _narrow(self, rows_B: NDArray[np.int64], log_probs_BK: NDArray[np.float32]) -> dict[str, Any]:
        return {
            "row": rows_B,
            "sample_id": self._ids.take(pa.array(rows_B)),
            "label": self._hard.take(pa.array(rows_B)),
            "entropy": entropy_nats(log_probs_BK),
            "margin": margin(log_probs_BK),
            "disagreement": self._disagreement_N[rows_B],
            "agreement": self._agreement_N[rows_B],
        }

    def _recorded(self, rows_B: NDArray[np.int64]) -> SparseLabels | None:
        kept = self._extras.recorded
        if kept is None:
            return None
        return SparseLabels(ids_NR=kept.ids_NR[rows_B], log_probs_NR=kept.log_probs_NR[rows_B], tail_N=kept.tail_N[rows_B])
