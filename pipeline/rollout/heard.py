"""What a device hears of its fleet beside assignments: which reports arrived, which of its lives is known, what time it is. Pure."""

from dataclasses import replace

from pipeline.rollout.device import DeviceRecord

MAX_INCARNATION = 1 << 62


def acknowledge(record: DeviceRecord, incarnation: int, sequence: int) -> DeviceRecord:
    """Drop the reports that the server has."""
    if incarnation != record.incarnation:
        return record
    left = tuple(report for report in record.reports if report.sequence > sequence)
    return record if left == record.reports else replace(record, reports=left)


def outlive(record: DeviceRecord, incarnation: int) -> DeviceRecord:
    """The server knows a later life of this device than this record's (it was lost, or begun by a wrong clock): begin one after that,
    or its reports would be taken for old ones."""
    if not record.incarnation < incarnation < MAX_INCARNATION:
        return record
    return replace(record, incarnation=incarnation + 1)


def learn_time(record: DeviceRecord, signed_unix_s: int, root: int = 0) -> DeviceRecord:
    """Remember the newest verified signed time, under the version of root metadata that is trusted now."""
    known_unix_s = record.signed_unix_s if root <= record.signed_root else 0
    return replace(record, signed_unix_s=max(known_unix_s, signed_unix_s), signed_root=max(root, record.signed_root))
