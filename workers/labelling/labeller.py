"""One teacher at work: read a unit, ask the teacher, put the shard. A plain class; the Ray actor around it is in `ray_crew`.

`label` may be called from several threads: while one is at the teacher, another reads the next unit and a third writes the last one. One
reads and one asks at a time; how many are on their way is up to the caller, who has that many calls under way and no queue.
What the source's and the teacher's code raise becomes a value here, at the boundary to foreign code; a row at which the teacher
raises is found by halving the batch and set aside with the reason.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.labels.codecs import DENSE_FP16, Codec
from pipeline.labels.content import content_keys
from pipeline.labels.entries import Plan, QuarantinedRow, ShardRef
from pipeline.labels.evidence import faults
from pipeline.labels.placeholders import filled, placeholder_ids, without
from pipeline.labels.rowspace import part_rows
from pipeline.labels.shard import LabelledRows, ShardTakenError, encode_shard, maker, put_shard
from pipeline.labels.store import MappedStore, Store, StoreFullError, open_store
from pipeline.sources import SCHEMAS, Source
from pipeline.sources.source import PartChangedError
from pipeline.teachers.teacher import TeacherUnavailableError, answer_of, batches_of, in_order
from workers.labelling.embeddings import Embeddings
from workers.labelling.faults import EmbeddingUnusableError
from workers.labelling.messages import Assignment, Canary, Failed, Labelled, LabellerSpec, Trouble
from workers.labelling.reuse import NOTHING_KNOWN, Known, Reuse
from workers.labelling.sizing import is_too_large
from workers.sharing import check_log

if TYPE_CHECKING:
    from pipeline.teachers import Teacher

REASON_MAX_CHARS = 300

log = logging.getLogger(__name__)

Kind = Literal["text", "floats"]


@dataclass(frozen=True, kw_only=True)
class _Answer:
    log_probs_NK: NDArray[np.float32]
    disagreement_N: NDArray[np.float32] | None
    embedding_ND: NDArray[np.float16] | None
    bad: dict[int, str]
    """Place in the unit -> why it has no label."""
    asked: int
    seconds: float

    @property
    def refused(self) -> bool:
        """Something was asked, and the teacher failed on all of it."""
        return 0 < self.asked == len(self.bad)

    def repeat(self, places: Mapping[int, int]) -> None:
        """Say at each place what was said at the other."""
        for column in (self.log_probs_NK, self.disagreement_N, self.embedding_ND):
            if column is not None:
                column[list(places)] = column[list(places.values())]
        self.bad.update({place: self.bad[first] for place, first in places.items() if first in self.bad})


@dataclass(frozen=True, kw_only=True)
class _Unread:
    trouble: Trouble
    reason: str


class Labeller:
    """Labels units with one teacher, from one source, into one store."""

    def __init__(
        self,
        *,
        store: Store,
        source: Source,
        teacher: "Teacher",
        batch_rows: int,
        kind: Kind,
        codec: Codec = DENSE_FP16,
        reuse: bool = True,
        embedding: bool = False,
    ) -> None:
        self.teacher, self._codec = teacher, codec
        self._compressed = not isinstance(store, MappedStore)  # what is not mapped is carried over a network
        self._reuse: Reuse | None = None
        self._embeddings = Embeddings(teacher.fingerprint) if embedding else None
        if reuse and teacher.deterministic:
            labels = maker(teacher=teacher.fingerprint, classes=teacher.classes, codec=codec, embedding=embedding)
            self._reuse = Reuse(store, maker=labels)
        self._store, self._source, self._batch_rows, self._kind = store, source, batch_rows, kind
        self._reading, self._asking = threading.Lock(), threading.Lock()

    @classmethod
    def load(cls, spec: LabellerSpec) -> "Labeller":
        """Open what the spec names. Raises StoreNotSharedError, and what loading the source or the teacher raises."""
        from pipeline.teachers import load_teacher  # it brings along what teachers are made of: seconds, and much memory

        check_log(spec.store_url, spec.log)
        return cls(
            store=open_store(spec.store_url),
            source=spec.source.open(),
            teacher=load_teacher(spec.teacher, classes=spec.classes, base=spec.base),
            batch_rows=spec.teacher.batch_rows,
            kind=spec.source.section.kind,
            codec=spec.codec,
            reuse=spec.reuse,
            embedding=spec.embedding,
        )

    def label(self, assignment: Assignment) -> Labelled | Failed:
        """Do the assignment. When this returns Labelled, its shard is durable; it counts once the driver commits it.

        Raises TeacherUnavailableError, EmbeddingUnusableError: nothing that the teacher is asked next would fare better.
        """
        rows_N = np.setdiff1d(np.arange(assignment.start, assignment.stop), np.array(assignment.without, dtype=np.int64))
        batch = self._batch(assignment, rows_N)
        if isinstance(batch, _Unread):
            return Failed(lease=assignment.lease, trouble=batch.trouble, reason=batch.reason)
        unit_bytes = batch.nbytes + len(rows_N) * len(self.teacher.classes) * np.dtype(np.float32).itemsize
        if is_too_large(len(rows_N), unit_bytes) and not assignment.keep_every_row:  # a repair can't be divided
            return Failed(lease=assignment.lease, trouble=Trouble.LARGE, reason=f"{unit_bytes} bytes", unit_bytes=unit_bytes)
        problems = _problems(batch)
        known = self._known(assignment, batch["input"])
        with self._asking:
            answer = self._ask(batch["input"], [*problems, *known.places])
            if answer.refused and known.copied:  # no copy may vouch for a teacher that fails on all it is asked
                known = replace(known, copied=None)
                answer = self._ask(batch["input"], [*problems, *known.places])
        refused = answer.refused
        answer.repeat(known.repeats)
        bad = problems | answer.bad
        if self._embeddings:
            answer = replace(answer, embedding_ND=self._embeddings.beside(known.copied, answer.embedding_ND, len(rows_N)))
        shard = self._write(assignment, rows_N, batch, answer, known, bad)
        if isinstance(shard, Failed):
            return shard
        forgotten = frozenset(assignment.forgotten)
        found = ((int(rows_N[place]), why) for place, why in sorted(bad.items()))
        return Labelled(
            lease=assignment.lease,
            shard=shard,
            bad=tuple(QuarantinedRow(row=row, reason=why) for row, why in found if row not in forgotten),
            teacher=self.teacher.fingerprint,
            teacher_rows=answer.asked,
            teacher_s=answer.seconds,
            reused=len(known.places.difference(bad)),
            refused=refused,
            unit_bytes=unit_bytes,
            embedding_width=None if answer.embedding_ND is None else answer.embedding_ND.shape[1],
        )

    def probe(self, canary: Canary) -> NDArray[np.float32] | None:
        """What the teacher says about the canary, NaN for a row at which it fails; None if the source can't be read."""
        batch = self._read(canary.plan, np.arange(canary.start, canary.stop))
        if isinstance(batch, _Unread):
            return None
        problems = _problems(batch)
        with self._asking:
            answer = self._ask(batch["input"], list(problems))
        answer.log_probs_NK[list(problems | answer.bad)] = np.nan
        return answer.log_probs_NK

    def _known(self, assignment: Assignment, inputs: Any) -> Known:
        """What need not be asked. A repair asks about everything: the label it is to replace may be the one that is known."""
        if self._reuse is None:
            return NOTHING_KNOWN
        keys_N2 = content_keys(inputs)
        return Known(keys_N2=keys_N2) if assignment.keep_every_row else self._reuse.look(keys_N2)

    def _batch(self, assignment: Assignment, rows_N: NDArray[np.int64]) -> Any:
        """The rows of the assignment, without input where they are forgotten or, in a repair, gone; or why there are none."""
        forgotten_N = np.isin(rows_N, np.array(assignment.forgotten, dtype=np.int64))
        read_R, plan = rows_N[~forgotten_N], assignment.plan
        batch = self._read(plan, read_R) if len(read_R) else _unreadable(plan, read_R, "", kind=self._kind)
        if isinstance(batch, _Unread):
            if not assignment.keep_every_row or batch.trouble is not Trouble.GONE:  # what can't be read now may be read again
                return batch
            batch = _unreadable(plan, read_R, batch.reason, kind=self._kind)
        if not forgotten_N.any():
            return batch
        places = np.concatenate([np.flatnonzero(~forgotten_N), np.flatnonzero(forgotten_N)])
        both = pa.Table.from_batches([batch, _unreadable(plan, rows_N[forgotten_N], "it was forgotten", kind=self._kind)])
        return both.take(pa.array(np.argsort(places))).combine_chunks().to_batches()[0]

    def _read(self, plan: Plan, rows_N: NDArray[np.int64]) -> Any:
        """The batch, or why there is none."""
        try:
            with self._reading:
                return self._source.read(plan.part, part_rows(plan, rows_N))
        except PartChangedError as error:
            return _Unread(trouble=Trouble.GONE, reason=str(error))
        except Exception as error:  # noqa: BLE001 - the source may be the user's code; whatever it raises is a fact about the unit
            return _Unread(trouble=Trouble.READ, reason=_reason(error))

    def _ask(self, inputs: Any, without: Sequence[int]) -> _Answer:
        """Ask about every row but those; a batch at which the teacher raises is halved until the bad rows are alone."""
        places = np.setdiff1d(np.arange(len(inputs)), np.array(without, dtype=np.int64))
        log_probs_NK = np.full((len(inputs), len(self.teacher.classes)), -np.log(len(self.teacher.classes)), dtype=np.float32)
        bad: dict[int, str] = {}
        disagreement_N: NDArray[np.float32] | None = None
        embedding_ND: NDArray[np.float16] | None = None
        waiting = [places[some] for some in self._batches(_rows_of(inputs, places))]
        began_s = time.perf_counter()
        while waiting:
            asked = waiting.pop()
            try:
                answer = answer_of(self.teacher, _rows_of(inputs, asked))
                seen_BD = self._embeddings.checked(answer.embedding_BD) if self._embeddings else None
            except (TeacherUnavailableError, EmbeddingUnusableError):
                raise  # no row is at fault
            except Exception as error:  # noqa: BLE001 - the teacher may be the user's code; whatever it raises is a fact about the rows
                if len(asked) == 1:
                    bad[int(asked[0])] = f"the teacher failed: {_reason(error)}"
                else:
                    waiting += [asked[len(asked) // 2 :], asked[: len(asked) // 2]]
                continue
            found = faults(answer.log_probs_BK)
            bad |= {int(asked[place]): why for place, why in found.items()}
            fine = np.setdiff1d(np.arange(len(asked)), np.array(list(found), dtype=np.int64)) if found else slice(None)
            log_probs_NK[asked[fine]] = answer.log_probs_BK[fine]
            if answer.disagreement_B is not None:
                disagreement_N = np.full(len(inputs), np.nan, dtype=np.float32) if disagreement_N is None else disagreement_N
                disagreement_N[asked[fine]] = answer.disagreement_B[fine]
            if seen_BD is not None:
                embedding_ND = np.zeros((len(inputs), seen_BD.shape[1]), dtype=np.float16) if embedding_ND is None else embedding_ND
                embedding_ND[asked[fine]] = seen_BD[fine]
        return _Answer(
            log_probs_NK=log_probs_NK,
            disagreement_N=disagreement_N,
            embedding_ND=embedding_ND,
            bad=bad,
            asked=len(places),
            seconds=time.perf_counter() - began_s,
        )

    def _batches(self, inputs: Any) -> Sequence[NDArray[np.int64]]:
        try:
            return batches_of(self.teacher, inputs, self._batch_rows)
        except TeacherUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - a row that cannot be sorted is found by halving, like one that cannot be answered
            log.warning("a teacher cannot sort its inputs into batches; it is asked in their order", extra={"reason": _reason(error)})
            return in_order(len(inputs), self._batch_rows)

    def _write(
        self, assignment: Assignment, rows_N: NDArray[np.int64], batch: Any, answer: _Answer, known: Known, bad: dict[int, str]
    ) -> ShardRef | Failed | None:
        left_out = () if assignment.keep_every_row else tuple(bad)
        places = np.setdiff1d(np.arange(len(rows_N)), np.array(left_out, dtype=np.int64))
        if not len(places):
            return None
        if bad and not left_out:  # a row that is given up keeps its place and nothing else
            batch = without(batch, bad, placeholder_ids(assignment.plan, rows_N))
        kept = _rows_of(batch, places)
        labelled = LabelledRows(
            rows_N=rows_N[places],
            sample_ids=kept["sample_id"],
            inputs=filled(kept["input"], width=assignment.width),
            log_probs_NK=answer.log_probs_NK if len(places) == len(rows_N) else answer.log_probs_NK[places],
            disagreement_N=None if answer.disagreement_N is None else answer.disagreement_N[places],
            embedding_ND=None if answer.embedding_ND is None else answer.embedding_ND[places],
            labels=kept["label"],
            keys_N2=known.keys_of(places, bad),
            copied=known.copied_to(places),
        )
        data = encode_shard(
            labelled, teacher=self.teacher.fingerprint, classes=self.teacher.classes, codec=self._codec, compressed=self._compressed
        )
        try:
            return put_shard(self._store, assignment.key, data, rows=len(places))
        except StoreFullError as error:
            return Failed(lease=assignment.lease, trouble=Trouble.FULL, reason=str(error))
        except (OSError, ShardTakenError) as error:
            return Failed(lease=assignment.lease, trouble=Trouble.WRITE, reason=_reason(error))


def _problems(batch: Any) -> dict[int, str]:
    """Place -> why there is no input."""
    missing = np.flatnonzero(batch["input"].is_null().to_numpy(zero_copy_only=False)).tolist()
    return {place: batch["problem"][place].as_py() or "no input" for place in missing}


def _rows_of(batch: Any, places_P: NDArray[np.int64]) -> Any:
    """Those places of an array or a batch: a view where they lie one after the other, which they nearly always do."""
    if len(places_P) and (np.diff(places_P) == 1).all():
        return batch.slice(int(places_P[0]), len(places_P))
    return batch.take(pa.array(places_P))


def _unreadable(plan: Plan, rows_N: NDArray[np.int64], reason: str, *, kind: Kind) -> Any:
    """A batch of rows that are not to be had; only their places are left."""
    schema = SCHEMAS[kind]
    unknown = [pa.nulls(len(rows_N), schema.field(name).type) for name in ("input", "label")]
    return pa.record_batch([placeholder_ids(plan, rows_N), *unknown, pa.array([reason] * len(rows_N), pa.string())], schema=schema)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:REASON_MAX_CHARS]
