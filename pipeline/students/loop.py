"""Teaching a student: the live pass first, then replays, until its steps are done. Plain torch, one action at a time.

`Trainer.advance` takes one step or says why it cannot; it never waits, sleeps or reports, so whoever drives it decides how to wait for
labels (`workers.training`) and a test needs no clock. All that must survive is `Trainer.state()`: training that goes on from it takes
the same steps, to the bit, as training that was never stopped. Randomness is drawn from (seed, epoch, position), never from a
generator that runs along.

With several ranks, each reads its slice of the same batch and its gradient is a share of the batch's mean; `reduce` adds them
up over ranks. A rank calls `reduce` only once its slice is there, also if the slice is empty, and all ranks see the same sums, so they
skip a step that is not finite together. Left to others: reading order (`pipeline.labels`), losses and weights (`pipeline.distill`).

Shapes: B batch (this rank's slice), K classes, P parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from enum import Enum
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import StudentSection
from pipeline.distill.losses import HINTS, mean_loss
from pipeline.distill.weighting import weights
from pipeline.errors import ConfigError
from pipeline.labels.order import Cursor
from pipeline.labels.reader import EndOfEpoch, LabelBatch, NotYet
from pipeline.students.answering import logits_of
from pipeline.students.averaging import Average
from pipeline.students.checkpoint import copied
from pipeline.students.faults import (
    SKIPS_IN_A_ROW_MAX,
    LabelsOfCodecError,
    NoLabelsError,
    NotFiniteElsewhereError,
    NotFiniteError,
    StateForeignError,
)
from pipeline.students.hint import Hint, HintImpossibleError
from pipeline.students.lessons import check_section, draw, evidence_of, inputs_of, lesson_of
from pipeline.students.models import Student
from pipeline.students.schedule import learning_rate

CPU = torch.device("cpu")
HISTORY_POINTS = 100


class Reader(Protocol):
    """Where labels come from: `pipeline.labels.LabelReader`, or `memory.MemoryReader`."""

    def start(self) -> Cursor: ...

    def read(self, cursor: Cursor) -> LabelBatch | NotYet | EndOfEpoch: ...


class Moved(Enum):
    """What one call of `advance` came to."""

    STEPPED = "stepped"
    SKIPPED = "skipped"
    """The gradient was not finite: the labels were read; weights and buffers stay."""
    WAITING = "waiting"
    """The next batch is not labelled yet."""
    DONE = "done"


class Trainer:
    """One student in training."""

    def __init__(
        self,
        *,
        name: str,
        student: Student,
        section: StudentSection,
        classes: tuple[str, ...],
        reader: Reader,
        seed: int,
        state: Mapping[str, Any] | None = None,
        rank: int = 0,
        world: int = 1,
        reduce: Callable[[Tensor], None] | None = None,
        device: torch.device = CPU,
    ) -> None:
        check_section(name, section, classes=len(classes))
        self._name, self._student, self._section, self._reader, self._seed = name, student, section, reader, seed
        self._class_of = {label: index for index, label in enumerate(classes)}
        self._rank, self._world, self._reduce, self._device = rank, world, reduce, device
        student.module.to(device)
        self._cursor: Cursor | None = None
        self._progress: dict[str, Any] = {
            "step": 0,
            "rows": 0,
            "live_rows": 0,
            "skipped": 0,
            "skips_in_a_row": 0,
            "teacher": "",
            "history": [],
        }
        self._finite_share = True
        """Of several ranks, this one's part of the last gradient was finite."""
        self._since: list[float] = []
        self._seen_K = torch.zeros(len(classes), dtype=torch.float64)
        """Summed probabilities of each class, of all labels read."""
        self._codecs: frozenset[str] = frozenset()
        """Of labels that may be learnt from."""
        self._optimiser = _adamw(student.module, section)
        self._hint: Hint | None = None
        """From the first embedding on, where a loss asks for it."""
        self._average: Average | None = Average(student.module, section.average) if section.average else None
        if state is not None:
            self._restore(state)

    @property
    def step(self) -> int:
        """Steps taken, skipped ones included."""
        return int(self._progress["step"])

    @property
    def live_rows(self) -> int:
        return int(self._progress["live_rows"])

    @property
    def rows(self) -> int:
        return int(self._progress["rows"])

    @property
    def skipped(self) -> int:
        return int(self._progress["skipped"])

    @property
    def teacher(self) -> str:
        return str(self._progress["teacher"])

    @property
    def epoch(self) -> int:
        return self._cursor.epoch if self._cursor else 0

    @property
    def loss(self) -> float:
        """Of the last step; NaN before the first."""
        return float(self._progress.get("loss", float("nan")))

    @property
    def history(self) -> tuple[tuple[int, float], ...]:
        """(step, mean loss of the steps since the entry before)."""
        return tuple((int(step), float(loss)) for step, loss in self._progress["history"])

    def state(self) -> dict[str, Any]:
        """All that must survive, as tensors and plain values. The learning rate and all randomness are functions of it.

        A copy on the CPU: steps that are taken while somebody writes it down do not change it.
        """
        live = {
            "cursor": asdict(self._cursor) if self._cursor else None,
            "model": self._student.module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "average": self._average.values if self._average else None,
            "schedule": {"steps": self._section.steps, "warmup_steps": self._section.warmup_steps, "peak": self._section.learning_rate},
            "seed": self._seed,
            "rng": "philox(seed, epoch, position)",
            "since": self._since,
            "seen": self._seen_K,
            "hint": self._hint.state_dict() if self._hint else None,
            **self._progress,
        }
        state: dict[str, Any] = copied(live)
        return state

    def advance(self) -> Moved:
        """Take one step if its labels are there.

        Raises NotFiniteError, NoLabelsError, LabelsOfCodecError, and what `logits_of` and the reader raise.
        """
        if self.step >= self._section.steps:
            return Moved.DONE
        batch = self._next_batch()
        if batch is None:
            return Moved.WAITING
        assert self._cursor is not None
        start, epoch = self._cursor.pos, self._cursor.epoch
        self._check_codecs(batch)
        # The forward pass writes into them, as BatchNorm does into its running mean: of a batch that is not finite, for good.
        buffers = {name: buffer.clone() for name, buffer in self._student.module.named_buffers()}
        loss, seen_K = self._backward(batch, epoch=epoch, start=start)
        self._seen_K += seen_K
        taken = self._update(loss)
        if not taken:
            self._take_back(buffers)
        self._cursor = batch.cursor_after
        self._count(batch, loss, epoch=epoch, taken=taken)
        if self._average and self.step >= self._section.steps:
            self._average.copy_to_module()  # what ships
        return Moved.STEPPED if taken else Moved.SKIPPED

    def _next_batch(self) -> LabelBatch | None:
        if self._cursor is None:
            self._cursor = self._reader.start()
        for _ in range(3):  # the end of the live pass, then of a replay, then a batch
            found = self._reader.read(self._cursor)
            if isinstance(found, LabelBatch):
                return found
            if isinstance(found, NotYet):
                return None
            if self._cursor.epoch > 0 and self._cursor.pos == 0:
                break
            self._cursor = found.next
        raise NoLabelsError(self._name)

    def _check_codecs(self, batch: LabelBatch) -> None:
        """Raises LabelsOfCodecError. The run's own codec was checked before it began; a replay may meet that of an earlier one."""
        for codec in sorted(batch.codecs - self._codecs):
            try:
                check_section(self._name, self._section, classes=len(self._seen_K), codec=codec)
            except ConfigError as error:
                raise LabelsOfCodecError(self._name, error.found) from error
        self._codecs |= batch.codecs

    def _backward(self, batch: LabelBatch, *, epoch: int, start: int) -> tuple[float, Tensor]:
        """Leave this batch's gradient on the module, summed over ranks. The whole batch's loss, and its classes' summed probabilities."""
        self._student.module.train()
        if self._hint is None and any(name in HINTS for name in self._section.loss):
            self._look_for_embeddings(batch, epoch=epoch)
        parameters = self._parameters()
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._teach(batch, epoch=epoch, start=start) if len(batch.rows_B) else torch.zeros((), device=self._device)
        seen_K = torch.from_numpy(np.exp(batch.log_probs_BK).sum(axis=0, dtype=np.float32)).to(self._device)
        if self._reduce is not None:
            reached_P = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=self._device)
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            flat = torch.cat([loss.reshape(1), seen_K, reached_P, *(grad.reshape(-1) for grad in grads)])
            self._finite_share = bool(torch.isfinite(flat).all())
            self._reduce(flat)
            loss, seen_K, reached_P, *grads = torch.split(flat, [1, len(seen_K), len(parameters), *(p.numel() for p in parameters)])
            for parameter, grad, reached in zip(parameters, grads, reached_P.tolist(), strict=True):
                # What no rank's loss reaches has no gradient: of zeros, weight decay would move it.
                parameter.grad = grad.reshape(parameter.shape).clone() if reached else None
        return float(loss), seen_K.double().cpu()

    def _teach(self, batch: LabelBatch, *, epoch: int, start: int) -> Tensor:
        """Add up the gradients of this rank's rows, some at a time; their share of the batch's loss."""
        section, device = self._section, self._device
        encoded = inputs_of(batch, self._student, seed=self._seed, epoch=epoch, start=start, rank=self._rank, world=self._world)
        inputs = torch.from_numpy(encoded).to(device)
        lesson, prior_K = lesson_of(batch, self._class_of).to(device), self._prior_K()
        total = torch.zeros((), device=device)
        with torch.random.fork_rng(devices=[] if device == CPU else [device]):  # a user's dropout: the same masks after a restart
            torch.manual_seed(draw(self._seed, epoch, start, self._rank) >> 1)
            for part in torch.arange(len(inputs)).tensor_split(min(section.accumulate, len(inputs))):
                rows = slice(int(part[0]), int(part[-1]) + 1)
                with torch.autocast(device.type, torch.bfloat16, enabled=section.precision == "bf16"):
                    logits_BK = logits_of(
                        self._name, self._student.module, inputs[rows], classes=len(prior_K), where=f"at step {self.step}"
                    ).float()
                student_BK = logits_BK.detach().softmax(1).cpu().numpy()
                told = lesson.rows(rows)
                if self._hint:
                    told = replace(told, projected_BD=self._hint.projected())
                evidence = evidence_of(batch, rows, student_BK=student_BK, prior_K=prior_K)
                loss = mean_loss(
                    logits_BK,
                    told,
                    weight_B=torch.from_numpy(weights(evidence, section.weighting, section.weighting_options)).to(device),
                    losses=section.loss,
                    temperature=section.temperature,
                    batch_rows=batch.batch_rows,
                    options=section.loss_options,
                )
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        return total

    def _parameters(self) -> list[torch.nn.Parameter]:
        """All that is trained."""
        modules = [self._student.module, *([self._hint] if self._hint else [])]
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def _look_for_embeddings(self, batch: LabelBatch, *, epoch: int) -> None:
        """Watch the student from the first batch on that has embeddings in any rank's slice: labels of earlier runs may have none.

        Raises HintImpossibleError where a whole pass has none.
        """
        values = 0 if batch.embedding_BD is None else batch.embedding_BD.shape[1]
        found = torch.tensor([values, values > 0], dtype=torch.float32, device=self._device)
        if self._reduce is not None:
            self._reduce(found)
        if found[1]:
            self._watch(int(found[0] / found[1]))
        elif epoch > 0 or self.step + 1 == self._section.steps:
            expected = "`labelling.embedding = true` and a teacher that gives them"
            raise HintImpossibleError(self._name, "the labels have no embeddings", expected, "label again so, or leave the loss out")

    def _watch(self, values: int) -> None:
        """Begin to hold what the student sees against embeddings of so many values. Raises HintImpossibleError."""
        self._hint = Hint(self._name, self._student.module, values=values, seed=self._seed).to(self._device)
        self._optimiser.add_param_group({"params": list(self._hint.parameters()), "weight_decay": 0.0})

    def _prior_K(self) -> NDArray[np.float32]:
        """Mean probability of each class over all labels read; even before the first."""
        sums_K = self._seen_K.numpy()
        return (sums_K / sums_K.sum() if sums_K.sum() else np.full(len(sums_K), 1 / len(sums_K))).astype(np.float32)

    def _update(self, loss: float) -> bool:
        section = self._section
        norm = torch.nn.utils.clip_grad_norm_(self._parameters(), section.clip_norm)
        if not (np.isfinite(loss) and bool(torch.isfinite(norm))):
            return False
        rate = learning_rate(self.step, steps=section.steps, warmup_steps=section.warmup_steps, peak=section.learning_rate)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        if self._average:
            self._average.update(self.step)
        return True

    def _take_back(self, buffers: Mapping[str, Tensor]) -> None:
        for name, buffer in self._student.module.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])

    def _count(self, batch: LabelBatch, loss: float, *, epoch: int, taken: bool) -> None:
        progress = self._progress
        progress["step"] += 1
        progress["rows"] += batch.batch_rows
        progress["live_rows"] += batch.batch_rows if epoch == 0 else 0
        progress["teacher"] = batch.teacher or progress["teacher"]
        progress["skips_in_a_row"] = 0 if taken else progress["skips_in_a_row"] + 1
        if taken:
            progress["loss"] = loss
            self._since.append(loss)
        else:
            progress["skipped"] += 1
        if progress["skips_in_a_row"] >= SKIPS_IN_A_ROW_MAX:
            self._end_not_finite(batch)
        if self._since and (self.step % max(1, self._section.steps // HISTORY_POINTS) == 0 or self.step == self._section.steps):
            progress["history"].append([self.step, sum(self._since) / len(self._since)])
            self._since = []

    def _end_not_finite(self, batch: LabelBatch) -> NoReturn:
        """Raises NotFiniteError on ranks whose share was not finite, or on all where only the sum was not; else NotFiniteElsewhereError."""
        shares = torch.tensor([not self._finite_share], dtype=torch.float32, device=self._device)
        if self._reduce is not None:
            self._reduce(shares)
        if self._finite_share and shares[0]:
            raise NotFiniteElsewhereError(self._name)
        raise NotFiniteError(self._name, self.step, batch.sample_ids)

    def _restore(self, state: Mapping[str, Any]) -> None:
        schedule = {"steps": self._section.steps, "warmup_steps": self._section.warmup_steps, "peak": self._section.learning_rate}
        for what, found, expected in (("seed", state["seed"], self._seed), ("schedule", state["schedule"], schedule)):
            if found != expected:
                raise StateForeignError(self._name, what, repr(found), repr(expected))
        load_model(self._name, self._student, state["model"])
        if state["hint"] is not None:
            self._watch(len(state["hint"]["projection.bias"]))
            assert self._hint is not None
            self._hint.load_state_dict(state["hint"])
        self._optimiser.load_state_dict(state["optimiser"])
        if self._average:
            self._average = Average(self._student.module, self._section.average, state["average"])
        self._cursor = Cursor(**state["cursor"]) if state["cursor"] else None
        self._since = list(state["since"])
        self._seen_K = state["seen"].clone()
        self._progress = {
            key: list(map(list, state[key])) if key == "history" else state[key]
            for key in (*self._progress, *(["loss"] if "loss" in state else []))
        }


def load_model(name: str, student: Student, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a student: its incumbent's (a warm start), or a checkpoint's. Raises StateForeignError."""
    own = student.module.state_dict()
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    if shapes != found:
        wrong = sorted(key for key in shapes.keys() | found.keys() if shapes.get(key) != found.get(key))[0]
        raise StateForeignError(name, f"weights {wrong!r}", str(found.get(wrong, "missing")), str(shapes.get(wrong, "no such weights")))
    student.module.load_state_dict(dict(weights))


def _adamw(module: torch.nn.Module, section: StudentSection) -> torch.optim.AdamW:
    """Weight decay on matrices only: a bias and a norm's scale are no capacity."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": section.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=section.learning_rate, fused=False)
