"""`kdpipe status`: what a run is doing, has done, and which of its processes live."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer


def status(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """Say what the run in DIR is doing now and what its generations came to."""
    from workers.driver.folder import RunFolder

    facts = _facts(RunFolder.existing(directory))
    typer.echo(json.dumps(facts) if as_json else _words(facts))


def _facts(folder: Any) -> dict[str, Any]:
    from pipeline.labels.store import open_store
    from pipeline.labels.verify import summarise
    from workers.driver.children import recorded
    from workers.driver.folder import holder_of, read_json
    from workers.driver.labels import store_url_in

    last = read_json(folder.status_file) or {}
    driver = holder_of(folder)
    stage = last.get("stage", "not started")
    if driver is None and stage not in ("done", "stopped", "failed"):
        stage = f"killed while: {stage}"
    return {
        "dir": str(folder.root),
        "driver_pid": driver,
        "stage": stage,
        "error": last.get("error", ""),
        "elapsed_s": last.get("elapsed_s"),
        "gauges": last.get("gauges", []),
        "labels": asdict(summarise(open_store(store_url_in(folder)))),
        "generations": [
            {"generation": number, **(read_json(folder.generation(number) / "outcome.json") or {"students": {}, "open": True})}
            for number in folder.generations()
        ],
        "warnings": _warnings(folder),
        "processes": [{"part": c.part, "pid": c.pid, "alive": c.alive()} for c in recorded(folder).values()],
    }


def _warnings(folder: Any) -> list[str]:
    """What of the release metadata ends soon."""
    from datetime import UTC, datetime

    from pipeline.errors import ReleaseError
    from workers.driver.keyring import ends_of, roles_of

    if not (folder.releases / "metadata" / "timestamp.json").exists():
        return []
    try:
        return ends_of(roles_of(folder), now=datetime.now(UTC))
    except (ReleaseError, OSError) as error:  # a status shows what there is, and this is part of it
        return [str(error)]


def _words(facts: dict[str, Any]) -> str:
    lines = [f"{facts['dir']}: {facts['stage']}" + (f" (driver pid {facts['driver_pid']})" if facts["driver_pid"] else "")]
    if facts["error"]:
        lines.append(f"  error: {facts['error']}")
    lines += [f"  {g['name']}: {g['done']:,} of {g['total']:,} {g['says']}".rstrip() for g in facts["gauges"]]
    labels = facts["labels"]
    lines.append(f"  labels: {labels['rows_committed']:,} of {labels['rows_planned']:,}, {labels['rows_quarantined']:,} quarantined")
    for generation in facts["generations"]:
        fates = ", ".join(f"{name} {fate['fate']}" for name, fate in generation["students"].items()) or "open"
        lines.append(f"  generation {generation['generation']}: {fates}")
    lines += [f"  warning: {line}" for line in facts["warnings"]]
    lines += [f"  {p['part']}: {'pid ' + str(p['pid']) if p['alive'] else 'not running'}" for p in facts["processes"]]
    return "\n".join(lines)
