"""`kdpipe rollout show`: one rollout as it is now, with its waves and the evidence of its gates."""

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer

from workers.commands.fleet_access import AsJson, Where, open_operator
from workers.commands.rollout.arguments import RolloutId
from workers.commands.tables import table_console


def show(
    where: Where,
    rollout: RolloutId,
    events: Annotated[bool, typer.Option("--events", help="Its log, too: what happened, in order.")] = False,
    as_json: AsJson = False,
) -> None:
    """Waves, counts, tests against their bounds, comparisons, and why it stands where it stands."""
    with open_operator(where) as operator:
        view = operator.get_rollout(rollout)
        log = operator.events(rollout) if events else []
    if as_json:
        typer.echo(json.dumps({**asdict(view), "events": [asdict(event) for event in log]}))
        return

    from workers.commands.rollout.picture import picture

    console = table_console()
    console.print(picture(view, now=time.time()))
    for event in log:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at_s))
        console.print(f"{event.sequence:>6}  {at}  {event.kind:<14} {_words(event.facts)}", markup=False, soft_wrap=True)


def _words(facts: object) -> str:
    if not isinstance(facts, dict):
        return ""
    if "reason" in facts:
        return str(facts["reason"])
    if "outcomes" in facts:
        return ", ".join(f"{device} {stage} {code}".rstrip() for device, stage, code in facts["outcomes"][:5]) + _more(facts["outcomes"])
    devices = facts.get("devices", [])
    names = [entry if isinstance(entry, str) else entry[0] for entry in devices]
    return " ".join(names[:8]) + _more(names, shown=8)


def _more(items: list[object] | list[str], *, shown: int = 5) -> str:
    return f" and {len(items) - shown:,} more" if len(items) > shown else ""
