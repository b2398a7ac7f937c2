"""A device's folder: where each thing lies, who holds it, and its durable record.

    identity/    key.pem (0600), certificate.pem, fleet.json        enrol
    tuf/         verified metadata                                  trust
    downloads/   DIGEST.part                                        download
    slots/       DIGEST/                                            pipeline.rollout.slots
    state.json   the record; state.bad: one that rotted             pipeline.rollout.device
    predict.sock the local prediction API                           local_api

One live agent a folder, by a lock that the kernel drops when the agent dies.
"""

import contextlib
import fcntl
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import FolderBusyError
from pipeline.files import FileTooLargeError, make_private_folder, read_bounded, write_atomic
from pipeline.rollout.device import DeviceRecord
from pipeline.rollout.device_file import RecordInvalidError, from_json, to_json

logger = logging.getLogger(__name__)
MAX_RECORD_BYTES = 4 << 20


@dataclass(frozen=True)
class DeviceFolder:
    """Paths of one device."""

    path: Path

    @property
    def identity(self) -> Path:
        return self.path / "identity"

    @property
    def certificate(self) -> Path:
        """Where it is, the device is enrolled."""
        return self.identity / "certificate.pem"

    @property
    def tuf(self) -> Path:
        return self.path / "tuf"

    @property
    def downloads(self) -> Path:
        return self.path / "downloads"

    @property
    def slots(self) -> Path:
        return self.path / "slots"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def socket(self) -> Path:
        return self.path / "predict.sock"


class FolderLock:
    """Held by the one live agent of a folder. Raises FolderBusyError."""

    def __init__(self, folder: Path) -> None:
        make_private_folder(folder)
        self._descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise FolderBusyError(str(folder), f"an agent, pid {holder}") from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the name
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


class RecordFile:
    """The device's record: in memory as the last thing that is durable."""

    def __init__(self, path: Path, *, incarnation: int) -> None:
        """Load, or begin with `incarnation`. A record that rotted is set aside: the fleet assigns again, nobody has to come.

        Raises RecordInvalidError for one of another version.
        """
        self._path = path
        try:
            self._record = from_json(read_bounded(path, MAX_RECORD_BYTES))
            return
        except FileNotFoundError:
            pass
        except (RecordInvalidError, FileTooLargeError) as error:
            if isinstance(error, RecordInvalidError) and error.other_version:
                raise
            logger.warning("the record does not read; it is set aside and begun anew", extra={"reason": str(error)})
            path.replace(path.with_suffix(".bad"))
        self._record = DeviceRecord(incarnation=incarnation)
        write_atomic(path, to_json(self._record))

    @property
    def current(self) -> DeviceRecord:
        return self._record

    def save(self, record: DeviceRecord) -> DeviceRecord:
        """Make a record durable before anybody acts on it. The same record again writes nothing.

        Raises OSError; then `current` is what the disk has: the old record, or the new one where only the last sync failed.
        """
        if record != self._record:
            try:
                write_atomic(self._path, to_json(record))
            except OSError:
                with contextlib.suppress(OSError):
                    self._record = from_json(read_bounded(self._path, MAX_RECORD_BYTES))
                raise
            self._record = record
        return record
