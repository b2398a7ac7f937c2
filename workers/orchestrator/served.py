"""How each device's model answered, kept for all replicas and over restarts: one row a device, the newest that it told.

A device tells it with every call, and what it tells covers minutes: so a replica notes it in memory at once (`Roster.served`), and
writes what came since its last beat with that beat, as it does with `seen`. The calls themselves need no transaction for it. What a kill
takes is at most the last beat's, and the next call brings it again. Always holds: a device is one value, however often or late a call
of it arrives, and an older one never replaces a newer one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.rollout.evidence import Serving
from workers.orchestrator import tables


@dataclass(frozen=True, kw_only=True)
class Served:
    """What one device told, of which release, and when."""

    digest: str
    told_s: float
    serving: Serving


def write_served(connection: Connection, told: Mapping[str, Served]) -> None:
    """Keep these, but for devices of which something newer is kept."""
    if not told:
        return
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(tables.served)
    values = {column.name: insert.excluded[column.name] for column in tables.served.c if not column.primary_key}
    newer = insert.on_conflict_do_update(index_elements=["device_id"], set_=values, where=tables.served.c.told_s < insert.excluded.told_s)
    rows = [
        {"device_id": device, "told_s": served.told_s, "digest": served.digest, **vars(served.serving)} for device, served in told.items()
    ]
    connection.execute(newer, rows)


def read_served(connection: Connection, *, after: int | None = None) -> Iterator[tuple[str, Served]]:
    """What is kept, by device; of those alone whose calls were told of after that number (`presence`)."""
    query = select(tables.served)
    if after is not None:
        query = query.join(tables.seen, tables.seen.c.device_id == tables.served.c.device_id).where(tables.seen.c.telling > after)
    for row in connection.execute(query).mappings():
        values = dict(row)
        device, told_s, digest = values.pop("device_id"), values.pop("told_s"), values.pop("digest")
        yield device, Served(digest=digest, told_s=told_s, serving=Serving(**values))


def forget_served(connection: Connection, *, before_s: float) -> None:
    connection.execute(delete(tables.served).where(tables.served.c.told_s < before_s))
