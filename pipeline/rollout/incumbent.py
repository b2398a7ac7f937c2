"""What a device does about the release that answers, apart from installing another: start it, doubt it, find it again. Pure.

A start is counted before it is made, so that one which never ends (a model that hangs, under a supervisor that waits less long) counts
over all lives of the agent. What a lost slot means is `device.lose_incumbent`'s.
"""

from dataclasses import replace

from pipeline.rollout.device import RESTING, DeviceRecord, Installed, fail, lose_incumbent

BOOT_TRIES = 3
"""Starts of an incumbent that never comes up, before it is given up: a machine may be short of memory while it starts."""
NO_WAY_BACK = "no_way_back"


def begin_boot(record: DeviceRecord) -> DeviceRecord:
    """Count one start of the incumbent, to be made durable before it; one that came up in none of its tries gives way first."""
    if record.boots == BOOT_TRIES:
        record = doubt_incumbent(record, "incumbent_does_not_start", f"started {BOOT_TRIES} times and never came up")
    return record if record.incumbent is None else replace(record, boots=min(record.boots + 1, BOOT_TRIES))


def booted(record: DeviceRecord) -> DeviceRecord:
    """The incumbent came up."""
    return replace(record, boots=0)


def doubt_incumbent(record: DeviceRecord, code: str, detail: str) -> DeviceRecord:
    """The incumbent does not come up, or keeps dying, and its slot is whole: go back to the previous release, if it may run.

    Where none may, it stays: the same bytes installed again would do the same, and on a better day it may run. FAILED says so, once.
    """
    back = lose_incumbent(record, code, detail)
    if back.incumbent is not None:
        return back
    if record.state not in RESTING or record.code == NO_WAY_BACK:
        return record
    return fail(record, NO_WAY_BACK, f"{code}: {detail}")


def adopt(record: DeviceRecord, found: Installed) -> DeviceRecord:
    """A record that was begun anew finds a release that proves itself: it answers until an assignment says more."""
    return replace(record, incumbent=found)
