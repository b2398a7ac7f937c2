"""A generation, one turn of the loop: label and train, export and judge, sign, roll out, close.

All here is pure. The facts are what the disk says (every step leaves a file behind, written last); `next_step` maps them to
the one step to take now, so a driver that was killed anywhere finds its place by looking. Left to others: acting
(`workers.driver`), judging (`pipeline.students.gate`), and when samples arrive (`pipeline.sources`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline.config import TRAINING_RESOURCES, RunFile


class Step(StrEnum):
    LABEL_AND_TRAIN = "label and train"
    JUDGE = "export and judge"
    SIGN = "sign"
    ROLL_OUT = "roll out"
    CLOSE = "close"


class Fate(StrEnum):
    """What became of one student in one generation, for a person and for `run.json`."""

    SHIPPED = "shipped"
    REFUSED = "refused by the gate"
    HALTED = "rollout halted"
    FAILED = "training failed"
    UNJUDGED = "export or judging failed"
    NOT_DEPLOYED = "passed; no population runs it"


FAILURES = frozenset({Fate.FAILED, Fate.UNJUDGED})
"""Nothing came of the student: it trains again in a later generation."""


@dataclass(frozen=True, kw_only=True)
class StudentFacts:
    """What the disk says of one student in the open generation."""

    trained: bool = False
    failed: bool = False
    """Training, export or judging ended in an error; the others go on without it."""
    ships: bool | None = None
    """The gate's verdict; None before it spoke."""
    signed: bool = False
    populations: int = 0
    """Populations that run this student."""
    rollouts_ended: int = 0


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Why a generation opens, and who takes part."""

    generation: int
    new_rows: int
    students: Mapping[str, str]
    """Name -> spec digest of those that train. One starts from its incumbent if that is of the same digest."""


def spec_digest(run: RunFile, student: str, *, source: str) -> str:
    """16 hex digits that name what a student is made of; a change means it starts afresh.

    `source` names the code of a user's own module, and is empty for a student that kdpipe ships.
    """
    section = run.students[student].model_dump(mode="json", exclude=set(TRAINING_RESOURCES))
    made_of = [section, run.classes, run.stream.kind, run.seed, *([source] if source else [])]
    return hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=8).hexdigest()


def wanted_digests(run: RunFile, sources: Mapping[str, str]) -> dict[str, str]:
    """Spec digest of every student of the run file. `sources` has what names the code of each."""
    return {name: spec_digest(run, name, source=sources[name]) for name in run.students}


def opening(*, last_generation: int, new_rows: int, wanted: Mapping[str, str], trained: Mapping[str, str]) -> Opening | None:
    """The next generation, or None where there is nothing to do.

    `wanted` and `trained` map a student's name to its spec digest: of the run file, and of its latest training if that did not fail. New
    rows concern every student; without them only those train that are new, changed or failed, on the labels that are there.
    """
    students = {name: digest for name, digest in wanted.items() if new_rows or trained.get(name) != digest}
    return Opening(generation=last_generation + 1, new_rows=new_rows, students=students) if students else None


def amended(left: Opening, *, wanted: Mapping[str, str], trained: frozenset[str]) -> Opening:
    """An opened generation after the run file changed.

    A student that has not finished training follows the run file: changed, it starts afresh; taken out, it leaves. One that has
    (`trained`) goes on as what it is, and the next generation sees to the change. `trained` leaves out whom nobody can judge as what it is.
    """
    students = {
        name: digest if name in trained else wanted[name] for name, digest in left.students.items() if name in trained or name in wanted
    }
    return replace(left, students=students)


def next_step(*, labels_ended: bool, students: Mapping[str, StudentFacts]) -> Step:
    """The one step to take now. Steps never go back: each fact, once true, stays true."""
    facts = students.values()
    if not labels_ended or any(not (s.trained or s.failed) for s in facts):
        return Step.LABEL_AND_TRAIN
    if any(s.trained and s.ships is None and not s.failed for s in facts):
        return Step.JUDGE
    if any(s.ships and not s.signed for s in facts):
        return Step.SIGN
    if any(s.signed and s.rollouts_ended < s.populations for s in facts):
        return Step.ROLL_OUT
    return Step.CLOSE
