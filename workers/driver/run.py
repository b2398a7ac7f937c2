"""`kdpipe run`, top to bottom: prepare, then one generation after the other, then the fleet and the summary.

Everything that must survive is in the run's folder, so a killed driver goes on by looking. This process holds the folder, starts
the rest and ends it; Ctrl-C and SIGTERM set one flag that every stage looks at.
"""

import contextlib
import functools
import logging
import os
import shlex
import shutil
from collections.abc import Iterator

from pipeline.errors import DataError, KdpipeError
from pipeline.loop.generation import FAILURES, Opening, amended, opening, wanted_digests
from pipeline.recipes import prepare_run
from pipeline.releases.keys import Unlock
from pipeline.students.scaling import trainers_offered
from pipeline.teachers import Teacher, load_teacher
from workers.driver.children import Children, recorded
from workers.driver.cluster import Cluster
from workers.driver.context import RunContext
from workers.driver.control import Controls
from workers.driver.evaluation import begin_controls
from workers.driver.fleet import DevicesBehindError, Fleet
from workers.driver.folder import Holder, RunFolder, read_json, write_json
from workers.driver.holding import holding_labels, refuse_useless_take_over
from workers.driver.labels import labelling_of, store_url
from workers.driver.metrics import RunMetrics
from workers.driver.planning import check_prepared, check_samples, check_students, plan_text
from workers.driver.ports import check_ports
from workers.driver.records import open_generation, outcomes, student_files, trained_digests, trained_in, write_opening
from workers.driver.rendering import render
from workers.driver.repairing import label_again, teachers_on
from workers.driver.reporter import Gauge, Reporter
from workers.driver.request import RunRequest
from workers.driver.stopping import StoppedError, stop_on_signals
from workers.driver.summary import answers_that_differ, summarise
from workers.driver.turn import Turn
from workers.driver.unlocking import check_keys, take
from workers.fetch import cache_folder, fetch
from workers.labelling import Labelling
from workers.logs import log_as_json

POLL_S = 0.2
WATCH_EVERY_S = 1.0


def drive(request: RunRequest) -> None:
    """Do what was asked, to the end or until told to stop. Raises KdpipeError; everything it started has ended by then."""
    if request.dry_run:
        _say_plan(request)
        return
    url = store_url(request)
    unlock = take(os.environ, request.folder.keys)
    if request.take_over:
        refuse_useless_take_over(request.folder, url)
    with Holder(request.folder), stop_on_signals() as stop, _log_file(request), Reporter(request.folder) as reporter:
        trainers = functools.partial(trainers_offered, request.run)
        cluster = Cluster(request.run.ray, keys=request.folder.keys, stop=stop, trainers=trainers)
        context = RunContext(
            run=request.run,
            base=request.base,
            folder=request.folder,
            reporter=reporter,
            children=Children(request.folder, keep=request.keep),
            cluster=cluster,
            controls=Controls(cluster),
            metrics=RunMetrics(request.run),
            stop=stop,
            command=request.command,
            unlock=unlock,
        )
        with _ending(context, keep=request.keep), holding_labels(request.folder, url, say=reporter.say, take_over=request.take_over):
            context.metrics.start(request.folder, labels=url)
            _go(context, request)


def _say_plan(request: RunRequest) -> None:
    """A dry run: what would be done, and what would be refused. Writes nothing."""

    @functools.cache
    def teacher() -> Teacher:
        return load_teacher(request.run.teacher, classes=request.run.classes, base=request.base)

    check_keys(request.folder, Unlock(environment=os.environ))
    warnings = check_students(request)
    check_prepared(request)
    with Reporter(request.folder, writes_status=False) as reporter:
        reporter.say("\n".join([plan_text(request, fingerprint=lambda: teacher().fingerprint), *warnings]))
        if request.run.prepare is None or request.folder.origin_file.exists():
            for note in check_samples(request):
                reporter.say(note)
            teacher()  # so that a mistake there is told now


@contextlib.contextmanager
def _ending(context: RunContext, *, keep: bool) -> Iterator[None]:
    """End what the run started, children first; with `keep`, they stay unless the user stopped the run.

    Whatever was going wrong while the user stopped it is no error of its own.
    """
    with contextlib.ExitStack() as endings:
        endings.callback(context.cluster.close)
        endings.callback(context.metrics.close)
        endings.callback(lambda: None if keep and not context.stop.is_set() else context.children.end_all())
        try:
            yield
        except (KeyboardInterrupt, KdpipeError) as error:
            if isinstance(error, StoppedError) or not (context.stop.is_set() or isinstance(error, KeyboardInterrupt)):
                raise
            raise StoppedError(context.command) from error


def _go(context: RunContext, request: RunRequest) -> None:
    check_keys(request.folder, context.unlock)
    warnings = check_students(request)
    check_ports(request.run.fleet, request.folder)
    if not request.folder.origin_file.exists():
        _remember(request)  # what lies here is a run's from now on
    if request.run.prepare:
        context.reporter.stage("prepare")
        with context.stop.at_once():
            prepare_run(request.run, folder=request.base, cache=cache_folder(), say=context.reporter.say, fetch=fetch)
    context.check_stop()
    plan = plan_text(request, fingerprint=lambda: context.teacher.fingerprint)
    with context.stop.at_once():
        notes = check_samples(request)
    context.reporter.say("\n".join([plan, *notes, *warnings]))
    _remember(request)  # of a run that was refused, the folder keeps how it was
    _repair(context)
    with contextlib.closing(Fleet(context)) as fleet:
        planner: Labelling | None = None
        while True:
            errors: list[KdpipeError] = []
            opened = _open(context, planner)
            if opened is None:
                context.reporter.say("nothing is new: the teacher is asked nothing, no student trains")
            while opened and not errors:
                errors = Turn(context, opened, fleet).run()
                opened = None if errors else _open(context)
            errors += _finish(context, fleet)
            if not request.continuous:
                if request.keep:
                    context.reporter.say(what_runs_on(request.folder, kind=request.run.stream.kind))
                if errors:
                    raise errors[0]
                return
            for error in errors:
                context.reporter.say(f"{type(error).__name__}: {error}")
            planner = _wait_for_samples(context, fleet)


def what_runs_on(folder: RunFolder, *, kind: str) -> str:
    """Of a run that ends with --keep: what lives on, how to ask it and how to end it."""
    living = [child.part for child in recorded(folder).values() if child.alive()]
    if not living:
        return "kept       nothing runs on"
    there = shlex.quote(str(folder.root))
    lines = [f"kept       {', '.join(living)}: `kdpipe stop {there}` ends them"]
    played = [part for part in living if folder.device(part).is_dir()]
    if played:
        words = "'some text'" if kind == "text" else "'[0.5, 1, 2]'"
        lines.append(f"           `kdpipe edge predict {shlex.quote(str(folder.device(played[0])))} {words}` asks one")
    return "\n".join(lines)


def _repair(context: RunContext) -> None:
    """Label again what `kdpipe labels verify` found bad."""
    bad = read_json(context.folder.bad_shards_file)
    if bad:
        context.reporter.stage(f"repair {len(bad)} bad shard(s)")
        outcome = label_again(context, bad, open_crew=teachers_on(context.cluster), reporter=context.reporter, stop=context.stop)
        context.check_stop()
        context.reporter.say(
            f"labelled again: {', '.join(outcome.repaired)}; {outcome.rows_forgotten} rows could not be and count for nothing"
        )
        context.folder.bad_shards_file.unlink()


def _finish(context: RunContext, fleet: Fleet) -> list[KdpipeError]:
    """Devices run what they should, answer as the artefact does, and the summary says what it all came to.

    Returns what is wrong with the fleet.
    """
    closed = outcomes(context.folder)
    if not closed:
        return []
    context.reporter.stage("evaluate")
    confirmed = fleet.settle()
    latest = max(closed)
    begin_controls(context, latest, {n: s["steps_total"] for n, s in closed[latest]["students"].items() if s["fate"] not in FAILURES})
    while waiting := context.controls.waiting():
        context.reporter.show([Gauge(name="controls", done=0, total=waiting, says="still training")])
        context.stop.wait(POLL_S)
        context.check_stop()
    with context.stop.at_once():
        summary = summarise(context, confirmed, fleet)
    write_json(context.folder.summary_file, summary)
    plots = f"plots      kdpipe report {shlex.quote(str(context.folder.root))} -o report.html"
    context.reporter.say("\n".join([*context.controls.errors, render(summary), plots]))
    behind = [DevicesBehindError(population, count.behind) for population, count in confirmed.items() if count.behind]
    return [*behind, *answers_that_differ(summary)]


def _open(context: RunContext, planner: Labelling | None = None) -> Opening | None:
    """The generation to work on: one that was left open, or a new one where there is something to do.

    `planner` is the labelling that watched for samples, if one did: it knows which files are still being written.
    """
    left, wanted = open_generation(context.folder), wanted_digests(context.run, context.sources)
    if left:
        going_on = amended(left, wanted=wanted, trained=trained_in(context.folder, left, context.base))
        _forget_training(context, left, going_on)
        write_opening(context.folder, going_on, context.run, context.sources)
        if going_on.students.keys() >= wanted.keys():
            labelling_of(context, going_on.generation).plan()  # else what is new is for a generation of all
        context.reporter.say(f"generation {going_on.generation} goes on")
        return going_on
    last = max(outcomes(context.folder), default=0)
    found = opening(
        last_generation=last,
        new_rows=(planner or labelling_of(context, last + 1)).plan().rows_left,
        wanted=wanted,
        trained=trained_digests(context.folder),
    )
    if found:
        write_opening(context.folder, found, context.run, context.sources)
    return found


def _forget_training(context: RunContext, before: Opening, after: Opening) -> None:
    """Checkpoints and weights of a student whose spec changed before it was done are of no use to what it is now."""
    for name, digest in before.students.items():
        if after.students.get(name) != digest:
            student_files(context.folder, before.generation, name).trained.unlink(missing_ok=True)
            shutil.rmtree(context.folder.training / f"{name}-{before.generation:06d}", ignore_errors=True)


def _wait_for_samples(context: RunContext, fleet: Fleet) -> Labelling:
    """Return, once the source has rows that nobody has labelled, the labelling that saw them."""
    labelling = labelling_of(context, max(outcomes(context.folder), default=0) + 1)
    context.reporter.stage("watching for new samples")
    said = ""
    while True:
        try:
            if labelling.preview().rows_left:
                return labelling
        except DataError as error:  # somebody may be about to mend it: say so once, and look again
            if str(error) != said:
                said = str(error)
                context.reporter.say(f"new samples cannot be read: {said}")
        fleet.watch()
        context.stop.wait(WATCH_EVERY_S)
        context.check_stop()


def _remember(request: RunRequest) -> None:
    write_json(request.folder.origin_file, {"base": str(request.base), "name": request.name, "run": request.run.model_dump(mode="json")})


@contextlib.contextmanager
def _log_file(request: RunRequest) -> Iterator[None]:
    """Log records of this process go to logs/driver.log, never to the terminal."""
    request.folder.logs.mkdir(parents=True, exist_ok=True)
    handler = log_as_json(request.folder.logs / "driver.log")
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
