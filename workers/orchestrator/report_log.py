"""How long reports stay in the database: for people who ask what became of a device. No decision rests on them.

Written with the transaction that takes them (`writer`). Always holds after `forget_reports`: none is older than `KEPT`, and no device has
more than `KEPT_OF_A_DEVICE`; what one can add until the next time is bounded by its rate (`limits`).
"""

from datetime import timedelta

from sqlalchemy import Connection, delete, func, select, tuple_

from workers.orchestrator import tables

KEPT = timedelta(days=30)
KEPT_OF_A_DEVICE = 200
"""The newest: about 25 installs."""

_reports = tables.reports.c
_KEY = (_reports.device_id, _reports.incarnation, _reports.sequence)
_CROWDED = select(_reports.device_id).group_by(_reports.device_id).having(func.count() > KEPT_OF_A_DEVICE)
_PLACE = func.row_number().over(partition_by=_reports.device_id, order_by=(_reports.incarnation.desc(), _reports.sequence.desc()))
_RANKED = select(*_KEY, _PLACE.label("place")).where(_reports.device_id.in_(_CROWDED)).subquery()
_SURPLUS = select(_RANKED.c.device_id, _RANKED.c.incarnation, _RANKED.c.sequence).where(_RANKED.c.place > KEPT_OF_A_DEVICE)


def forget_reports(connection: Connection, *, now: float) -> None:
    """Delete those that are too old, and those beyond the newest of each device."""
    connection.execute(delete(tables.reports).where(_reports.received_s < now - KEPT.total_seconds()))
    connection.execute(delete(tables.reports).where(tuple_(*_KEY).in_(_SURPLUS)))
