"""One generation acted out: look at the disk, take the one next step, until there is none left.

`pipeline.loop.generation` decides; here each step has one function, and each leaves a file when it is done. A student that fails
to train, to export or to be judged is left behind, said, and trained in a later generation; it never holds the others.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pipeline.errors import KdpipeError, StudentError
from pipeline.labels.log import LogReader
from pipeline.labels.store import open_store
from pipeline.labels.verify import teacher_cost
from pipeline.loop.generation import Fate, Opening, Step, StudentFacts, next_step
from pipeline.students.scaling import rivals_of
from workers.driver.context import RunContext
from workers.driver.evaluation import begin_controls
from workers.driver.fleet import Fleet, RolloutEndedBadlyError
from workers.driver.folder import read_json, write_json
from workers.driver.judging import judge_student
from workers.driver.labels import labelling_of, store_url
from workers.driver.learning import StageCrashedError, label_and_train
from workers.driver.records import Incumbent, facts_of, outcomes, populations_of, section_of, student_files
from workers.driver.releasing import sign_student
from workers.driver.standing import start_of, taken_back
from workers.training import TrainingSpec

logger = logging.getLogger(__name__)


class Turn:
    """One generation, from wherever it was left to its outcome."""

    def __init__(self, context: RunContext, opening: Opening, fleet: Fleet) -> None:
        self._context, self._opening, self._fleet = context, opening, fleet
        self._failed: dict[str, KdpipeError] = {}

    def run(self) -> list[KdpipeError]:
        """Take every step that is left. Returns what went wrong with single students, once everything else is done."""
        acts: Mapping[Step, Callable[[], None]] = {
            Step.LABEL_AND_TRAIN: self._label_and_train,
            Step.JUDGE: self._judge,
            Step.SIGN: self._sign,
            Step.ROLL_OUT: self._roll_out,
        }
        self._context.metrics.series.generation(self._opening.generation)
        while (step := self._next()) is not Step.CLOSE:
            self._context.check_stop()
            self._context.reporter.stage(f"generation {self._opening.generation}: {step}")
            acts[step]()
        self._close()
        halted = [
            RolloutEndedBadlyError(population, rollout["state"], rollout["reason"])
            for student in outcomes(self._context.folder)[self._opening.generation]["students"].values()
            for population, rollout in student["rollouts"].items()
            if not rollout["completed"]
        ]
        return [*self._failed.values(), *halted]

    def _next(self) -> Step:
        ended = labelling_of(self._context, self._opening.generation).preview().ended
        return next_step(labels_ended=ended, students=self._facts())

    def _facts(self) -> dict[str, StudentFacts]:
        return facts_of(self._context.folder, self._context.run, self._opening, failed=set(self._failed))

    def _label_and_train(self) -> None:
        specs = {name: self._spec(name) for name, facts in self._facts().items() if not facts.trained and name not in self._failed}
        for name in specs:
            self._say_taken_back(name)
        labelling = labelling_of(self._context, self._opening.generation)
        labelling.check_teacher(self._context.teacher.fingerprint)
        learning = label_and_train(self._context, labelling, specs)
        for name, error in learning.failed.items():
            self._leave_behind(name, error)
        if learning.labelling is None:
            raise next(iter(learning.failed.values()))  # nobody can learn: the teacher was asked nothing
        cost = teacher_cost(LogReader(open_store(store_url(self._context))).refresh(), self._opening.generation)
        write_json(self._context.folder.generation(self._opening.generation) / "labelling.json", learning.to_json(cost))

    def _judge(self) -> None:
        trained = [name for name, facts in self._facts().items() if facts.trained]
        begin_controls(self._context, self._opening.generation, {name: self._steps_total(name) for name in trained})
        if any(taken_back(self._context.folder, name) for name in trained):
            self._fleet.ensure()  # it knows whether a device still runs that
        for name in self._due(lambda facts: facts.trained and facts.ships is None and not facts.failed):
            report = self._verdict(name)
            if report is not None:
                self._context.metrics.series.verdict(name, ships=report["ships"])
                self._context.reporter.say(report["says"])

    def _verdict(self, name: str) -> dict[str, Any] | None:
        """The student's verdict; None where it comes to none, through a fault of its own. Raises what concerns all students."""
        try:
            with self._context.stop.at_once():
                return judge_student(self._context, self._opening, name)
        except StudentError as error:
            self._leave_behind(name, error)
        except (KdpipeError, OSError):
            raise  # the samples, the teacher or the disk
        except Exception as error:  # what makes and runs a graph raises anything over a user's module
            logger.exception("a student was not judged", extra={"student": name})
            self._leave_behind(name, StageCrashedError(f"export and judge {name}", f"{type(error).__name__}: {error}"[:300]))
        return None

    def _leave_behind(self, name: str, error: KdpipeError) -> None:
        self._failed[name] = error
        trace = getattr(error, "trace", "")
        if trace:
            logger.error("a student's own module raised", extra={"student": name, "trace": trace})
        shown = "; `kdpipe logs DIR driver` has its trace" if trace else ""
        self._context.reporter.say(f"student {name} failed, the others go on: {error}{shown}")

    def _sign(self) -> None:
        for name in self._due(lambda facts: bool(facts.ships) and not facts.signed):
            self._context.reporter.say(sign_student(self._context, self._opening, name))

    def _roll_out(self) -> None:
        for name in self._due(lambda facts: facts.signed and facts.rollouts_ended < facts.populations):
            files = student_files(self._context.folder, self._opening.generation, name)
            for population in populations_of(self._context.run, name):
                if not files.rollout(population).exists():
                    self._fleet.roll_out(files, population, rollout=f"{population}-{self._opening.generation:06d}")

    def _due(self, is_due: Callable[[StudentFacts], bool]) -> list[str]:
        return [name for name, facts in self._facts().items() if is_due(facts)]

    def _spec(self, name: str) -> TrainingSpec:
        context, run = self._context, self._context.run
        incumbent = self._start(name)
        return TrainingSpec(
            name=name,
            student=section_of(context.folder, self._opening.generation, name),
            source=context.sources.get(name, ""),
            classes=run.classes,
            kind=run.stream.kind,
            store_url=store_url(context),
            generation=self._opening.generation,
            seed=run.seed,
            base=context.base,
            storage=context.folder.training,
            warm_start=incumbent.files.weights if incumbent else None,
            mixed_teachers=run.labelling.mixed_teachers,
            out=student_files(context.folder, self._opening.generation, name).weights,
            rivals=rivals_of(run, name),
        )

    def _start(self, name: str) -> Incumbent | None:
        """The version that a student's training starts from: the latest of the same make that was not taken back."""
        incumbent = start_of(self._context.folder, name)
        return incumbent if incumbent and incumbent.spec == self._opening.students[name] else None

    def _say_taken_back(self, name: str) -> None:
        back, start = taken_back(self._context.folder, name), self._start(name)
        if back:
            how = f"starts from generation {start.generation}" if start else "starts afresh"
            self._context.reporter.say(f"{name}: {how}: {back.says}")

    def _steps_total(self, name: str) -> int:
        """Steps that a student has had, with those of the versions it started from."""
        start = self._start(name)
        steps = section_of(self._context.folder, self._opening.generation, name).steps
        return steps + (start.steps_total if start else 0)

    def _close(self) -> None:
        students = {name: self._outcome(name, facts) for name, facts in self._facts().items()}
        outcome = {"generation": self._opening.generation, "new_rows": self._opening.new_rows, "students": students}
        for name in (name for name, facts in self._facts().items() if facts.trained):
            # Checkpoints end with the training they belong to; what lasts is weights.pt. Those of one that failed stay until one does not.
            for number in self._context.folder.generations():
                shutil.rmtree(replace(self._spec(name), generation=number).folder, ignore_errors=True)
        write_json(self._context.folder.generation(self._opening.generation) / "outcome.json", outcome)
        for name in students:
            self._context.reporter.say(f"generation {self._opening.generation}, {name}: {students[name]['fate']}. {students[name]['says']}")

    def _outcome(self, name: str, facts: StudentFacts) -> dict[str, object]:
        files = student_files(self._context.folder, self._opening.generation, name)
        rollouts = {p: read_json(files.rollout(p)) for p in populations_of(self._context.run, name) if files.rollout(p).exists()}
        verdict = read_json(files.verdict) or {}
        if facts.failed:
            fate, says = Fate.UNJUDGED if facts.trained else Fate.FAILED, str(self._failed[name])
        elif not facts.ships:
            why = str(verdict.get("why", ""))
            fate, says = Fate.REFUSED, why[:1].upper() + why[1:]
        elif not rollouts:
            fate, says = Fate.NOT_DEPLOYED, ""
        elif all(rollout["completed"] for rollout in rollouts.values()):
            fate, says = Fate.SHIPPED, "; ".join(f"{p}: {r['confirmed']} of {r['devices']} confirmed" for p, r in rollouts.items())
        else:
            fate, says = Fate.HALTED, "; ".join(f"{p}: {r['state']}, {r['reason']}" for p, r in rollouts.items())
        return {
            "fate": fate,
            "says": says,
            "spec": self._opening.students[name],
            "rollouts": rollouts,
            "steps_total": self._steps_total(name),
        }
