"""Rollouts that move no more and whose devices are still to be assigned what that calls for, remembered over restarts.

Signing takes time, so a transaction signs so many and no more (`engine`). A rollout that moves goes on with the next pass by itself; of one
that has halted or ended the database says that there is more to do. Written with the transaction that leaves some, and with the last one.
"""

import hashlib

from sqlalchemy import Connection, delete, insert, select

from workers.orchestrator import tables

_PREFIX = "unfinished "
_facts = tables.facts.c


def unfinished(connection: Connection) -> frozenset[str]:
    """Ids of these rollouts."""
    return frozenset(connection.execute(select(_facts.value).where(_facts.name.startswith(_PREFIX))).scalars())


def note(connection: Connection, rollout_id: str, *, is_unfinished: bool) -> None:
    name = _PREFIX + hashlib.sha256(rollout_id.encode()).hexdigest()[:24]
    connection.execute(delete(tables.facts).where(_facts.name == name))
    if is_unfinished:
        connection.execute(insert(tables.facts).values(name=name, value=rollout_id))
