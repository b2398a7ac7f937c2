"""Keeps the device answering: with what the record says is installed, or what ran before it, or any slot that proves itself.

Needs no network, no identity and no room on the disk. What to do about a release that does not run is `pipeline.rollout.incumbent`'s
decision; new releases are `install`'s.
"""

import contextlib
import logging

from pipeline.rollout import incumbent
from pipeline.rollout.device import DeviceRecord, Installed, lose_incumbent
from pipeline.rollout.incumbent import BOOT_TRIES
from pipeline.rollout.slots import SlotCorruptError, SlotMissingError, Slots
from workers.edge.folder import RecordFile
from workers.edge.install import CandidateRefusedError, prove
from workers.edge.model_process import ModelDiedError, ModelRefusedError
from workers.edge.serving import Serving

logger = logging.getLogger(__name__)
STARTS_AT_ONCE = BOOT_TRIES + 1
"""All tries of one release, and one of that before it; more at the next turn."""


class Incumbent:
    """What answers. For the agent's thread only."""

    def __init__(self, record: RecordFile, slots: Slots, serving: Serving) -> None:
        self._record, self._slots, self._serving = record, slots, serving

    def boot(self) -> None:
        """Answer with whatever on this device can."""
        record = self._record.current
        if record.generation == 0 and record.incumbent is None:
            self._adopt(record)
        else:
            self._start(record)

    def tend(self) -> None:
        """Start what has died; give way where it keeps dying; try again what did not come up."""
        self._serving.tend()
        if self._serving.broken:
            detail = "the model process died again and again"
            record = self._remember(incumbent.doubt_incumbent(self._record.current, "model_keeps_dying", detail))
            self._serving.close()
            self._start(record)
        elif self._serving.slot is None:
            self.boot()

    def _start(self, record: DeviceRecord) -> None:
        for _ in range(STARTS_AT_ONCE):
            record = self._remember(incumbent.begin_boot(record))
            if record.incumbent is None:
                return
            try:
                self._serving.serve(self._slots.open(record.incumbent.digest))
            except (SlotMissingError, SlotCorruptError) as error:
                record = self._remember(lose_incumbent(record, "incumbent_does_not_start", str(error)))
            except ModelRefusedError as error:
                record = self._remember(incumbent.doubt_incumbent(record, "incumbent_does_not_start", str(error)))
            except ModelDiedError as error:
                logger.warning("incumbent does not start", extra={"digest": error.digest, "reason": str(error)})
            else:
                self._remember(incumbent.booted(record))
                return

    def _adopt(self, record: DeviceRecord) -> None:
        """Nothing says what is installed: take the newest release whose seal and golden samples hold."""
        for slot in self._slots.whole():
            with contextlib.suppress(ModelDiedError, ModelRefusedError, CandidateRefusedError):
                self._serving.serve(slot, prove=prove)
                found = Installed(digest=slot.digest, student=slot.manifest.student, release=slot.manifest.release)
                logger.warning("no record of what is installed; a slot that proves itself answers", extra=vars(found))
                self._remember(incumbent.adopt(record, found))
                return

    def _remember(self, record: DeviceRecord) -> DeviceRecord:
        """The record, also where the disk does not take it: then the next start finds out again."""
        try:
            return self._record.save(record)
        except OSError as error:
            logger.warning("the record is not written", extra={"reason": str(error)})
            return record
