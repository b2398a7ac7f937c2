"""`kdpipe audit verify`: are the rollouts' logs what was written? Every entry, the state they fold to, and the heads seen last.

With a run's folder it reads the database itself, also while the orchestrator is down or refuses to start; with an operator's file it
asks the orchestrator and checks here what it says.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.commands.fleet_access import AsJson, Where, open_operator

if TYPE_CHECKING:
    from pipeline.errors import KdpipeError
    from pipeline.rollout.audit import Head
    from workers.orchestrator.logbook import StoredLog

app = typer.Typer(help="Check that what happened to rollouts is what was written down.", no_args_is_help=True, rich_markup_mode=None)
HEADS_VERSION = 1
MAX_HEADS_BYTES = 16 * 2**20


@app.callback()
def audit() -> None:
    """Check that what happened to rollouts is what was written down."""


@app.command("verify")
def verify(
    where: Where,
    rollout: Annotated[str, typer.Argument(metavar="[ROLLOUT]", help="Only this one.")] = "",
    heads: Annotated[
        Path | None, typer.Option("--heads", metavar="FILE", help="Heads seen last; keep it where the orchestrator cannot write.")
    ] = None,
    database: Annotated[str, typer.Option("--database", metavar="URL", help="Another database than the one in the run's folder.")] = "",
    as_json: AsJson = False,
) -> None:
    """Re-check each log's hash chain, refold it, and hold it against the head seen last; exit 8 and name the first bad entry if one is."""
    file = heads or (where / "audit-heads.json" if where.is_dir() else where.with_suffix(".heads.json"))
    known = _read_heads(file)
    found, problems = [], []
    seen: dict[str, Head] = {}
    for log in _logs(where, rollout, database, known):
        record, head, problem = _check(log, known.get(log.rollout_id))
        found.append(record)
        if head is not None:
            seen[log.rollout_id] = head
        if problem is not None:
            problems.append(problem)
        if not as_json and problem is None:
            typer.echo(f"{log.rollout_id}: {record['says']}")
    if as_json:
        typer.echo(json.dumps(found))
    elif not found:
        typer.echo("no rollout yet")
    _write_heads(file, {**known, **seen})
    for problem in problems[1:]:
        typer.echo(f"kdpipe: {problem}", err=True)
    if problems:
        raise problems[0]


def _logs(where: Path, rollout: str, database: str, known: "dict[str, Head]") -> "Iterator[StoredLog]":
    """The logs to check; one that is remembered and gone is among them, empty. Raises ConfigError for one nobody ever heard of."""
    from pipeline.errors import ConfigError
    from workers.orchestrator.logbook import StoredLog

    there = set()
    for log in _served(where, rollout, known) if where.is_file() and not database else _stored(where, database):
        if rollout in ("", log.rollout_id):
            there.add(log.rollout_id)
            yield log
    for rollout_id in sorted(known.keys() - there):
        if rollout in ("", rollout_id):
            yield StoredLog(rollout_id=rollout_id, state="", events=[])
            there.add(rollout_id)
    if rollout and rollout not in there:
        raise ConfigError("ROLLOUT", f"there is no {rollout!r:.100}", "a rollout that was created", "`kdpipe rollout ls FLEET` lists them")


def _stored(where: Path, database: str) -> "Iterator[StoredLog]":
    from workers.driver.folder import RunFolder
    from workers.orchestrator.logbook import sqlite_url, stored_logs

    return stored_logs(database or sqlite_url(RunFolder.existing(where).fleet))


def _served(where: Path, rollout: str, known: "dict[str, Head]") -> "Iterator[StoredLog]":
    """Those that the orchestrator has in mind, and those that are remembered: it reads older ones when asked."""
    from pipeline.rollout.events import RolloutLogBrokenError
    from workers.orchestrator.client import OrchestratorRefusedError
    from workers.orchestrator.logbook import StoredLog

    with open_operator(where) as operator:
        fleet = operator.get_fleet()
        broken = {view.rollout_id for view in fleet.broken}
        names = [rollout] if rollout else sorted({view.rollout_id for view in fleet.rollouts} | broken | known.keys())
        for name in names:
            state = ""
            try:
                state = "" if name in broken else operator.get_rollout(name).state.value
                yield StoredLog(rollout_id=name, state=state, events=operator.events(name))
            except RolloutLogBrokenError as error:
                yield StoredLog(rollout_id=name, state=state, events=[], problem=error)
            except OrchestratorRefusedError as error:
                if error.code != "NOT_FOUND":
                    raise  # one that is not there `_logs` tells from one that is gone


def _check(log: "StoredLog", known: "Head | None") -> "tuple[dict[str, Any], Head | None, KdpipeError | None]":
    """What a script is told of it, its head where all is well, and its problem where not."""
    from pipeline.errors import FleetError
    from pipeline.rollout.audit import RolloutStateForeignError, audit, head_of

    record: dict[str, Any] = {"rollout_id": log.rollout_id, "events": len(log.events), "ok": False}
    try:
        if log.problem is not None:
            raise log.problem
        rollout = audit(log.rollout_id, log.events, known=known)
        if log.state != rollout.state:
            raise RolloutStateForeignError(log.rollout_id, log.state or "none of its rollouts", str(rollout.state))
    except FleetError as error:
        return {**record, "says": str(error)}, None, error
    checked = f", the head seen last (event {known.sequence}) is in it" if known is not None else ", no head was known before"
    says = f"{len(log.events):,} events hold together and give {rollout.state}{checked}; head {rollout.head}"
    return {**record, "ok": True, "state": str(rollout.state), "head": rollout.head, "says": says}, head_of(rollout), None


def _read_heads(file: Path) -> "dict[str, Head]":
    from pipeline.errors import ConfigError
    from pipeline.files import read_bounded
    from pipeline.rollout.audit import Head

    try:
        tree = json.loads(read_bounded(file, MAX_HEADS_BYTES))
        if tree["version"] != HEADS_VERSION:
            raise ValueError(f"version {tree['version']!r}")
        return {name: Head(sequence=int(head["sequence"]), hash=str(head["hash"])) for name, head in tree["heads"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            str(file), f"{error}"[:100], f"heads of an earlier audit, version {HEADS_VERSION}", "name another --heads"
        ) from error


def _write_heads(file: Path, heads: "dict[str, Head]") -> None:
    from dataclasses import asdict

    from pipeline.files import write_atomic

    tree = {"version": HEADS_VERSION, "heads": {name: asdict(head) for name, head in sorted(heads.items())}}
    write_atomic(file, (json.dumps(tree, indent=1) + "\n").encode(), mode=0o600)
