"""When devices last called, told from replica to replica without comparing their clocks.

A replica notes a call in memory at once (`Roster.seen`) and tells what came since its last beat with that beat: how long ago each call
was, under a number that grows by one with each telling. Who reads asks for higher numbers than it has read, never for a time, and counts
back from its own clock; so a call looks younger than it is by at most the time between two beats, and never older. Always holds: a
device is one row, the last that was told of it.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects import postgresql, sqlite

from workers.orchestrator import tables

_seen = tables.seen.c


def newest(connection: Connection) -> int:
    """Number of the last telling; 0 before the first."""
    return int(connection.scalar(select(func.max(_seen.telling))) or 0)


def tell(connection: Connection, seen: Mapping[str, float], *, now: float) -> None:
    """Say when these devices called, by this replica's clock, which says `now`."""
    if not seen:
        return
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(tables.seen)
    values = {column.name: insert.excluded[column.name] for column in tables.seen.c if not column.primary_key}
    told = insert.on_conflict_do_update(index_elements=["device_id"], set_=values)
    telling = newest(connection) + 1
    rows = [{"device_id": device, "telling": telling, "at_s": at_s, "ago_s": max(0.0, now - at_s)} for device, at_s in seen.items()]
    connection.execute(told, rows)


def hear(connection: Connection, *, after: int, now: float) -> dict[str, tuple[float, float]]:
    """What was told since that number: by device, its last call by our clock, and by the clock of the replica that it called."""
    rows = connection.execute(select(_seen.device_id, _seen.at_s, _seen.ago_s).where(_seen.telling > after))
    return {device: (now - ago_s, at_s) for device, at_s, ago_s in rows}


def recall(connection: Connection) -> dict[str, float]:
    """Every device's last call as it was told, by whatever clock: for a start, when silence before it counts against nobody."""
    return {row.device_id: row.at_s for row in connection.execute(select(_seen.device_id, _seen.at_s))}
