"""A device's folder: where each thing lies, who holds it, and its durable record.

    identity/    key.pem (0600), certificate.pem, fleet.json        enrol
    tuf/         verified metadata                                  trust
    downloads/   DIGEST.part                                        download
    slots/       DIGEST/                                            pipeline.rollout.slots
    state.json   the record; state.bad: one that rotted             pipeline.rollout.device
    held.json    of the record, what must outlive it                pipeline.rollout.device_file
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
from pipeline.rollout.device_file import RecordInvalidError, begin_anew, from_json, held_to_json, to_json

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
            shows = f"`kdpipe edge status {folder}` shows what it does"
            raise FolderBusyError(str(folder), f"an agent, pid {holder}", f"{shows}, `kill {holder}` ends it") from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the name
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


class RecordFile:
    """The device's record: in memory as the last thing that is durable."""

    def __init__(self, path: Path, *, incarnation: int) -> None:
        """Load, or begin with `incarnation` and what `held.json` says is installed. Whatever is wrong with the files, there is a record.

        One that rotted is set aside: the fleet assigns again, nobody has to come. One of another version, or that the disk does not give
        out, is left alone, see `locked`.
        """
        self._path, self._held_path = path, path.with_name("held.json")
        self.locked = ""
        """Why nothing is written, and nothing may be installed; empty if the record is this agent's to change."""
        self._held = _read_or_nothing(self._held_path)
        self._record, is_new = self._begin(incarnation), True
        try:
            self._record, is_new = from_json(read_bounded(path, MAX_RECORD_BYTES)), False
        except FileNotFoundError:
            pass
        except (RecordInvalidError, FileTooLargeError, OSError) as error:
            logger.warning("the record does not read; what is known to be installed answers", extra={"reason": str(error)})
            if isinstance(error, OSError) or (isinstance(error, RecordInvalidError) and error.other_version):
                self.locked = str(error)
                return
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".bad"))
        with contextlib.suppress(OSError):  # a full disk: the next change of the record is written, or not made
            if is_new:
                write_atomic(path, to_json(self._record))
            self._copy()

    @property
    def current(self) -> DeviceRecord:
        return self._record

    def save(self, record: DeviceRecord) -> DeviceRecord:
        """Make a record durable before anybody acts on it. The same record again writes nothing, nor does a locked file.

        Raises OSError; then `current` is what the disk has: the old record, or the new one where only the last sync failed.
        """
        if self.locked or record == self._record:
            self._record = record
            return record
        try:
            write_atomic(self._path, to_json(record))
            self._record = record
            self._copy()
        except OSError:
            with contextlib.suppress(OSError):
                self._record = from_json(read_bounded(self._path, MAX_RECORD_BYTES))
            raise
        return record

    def _begin(self, incarnation: int) -> DeviceRecord:
        try:
            return begin_anew(self._held, incarnation=incarnation)
        except RecordInvalidError:
            return DeviceRecord(incarnation=incarnation)

    def _copy(self) -> None:
        """After the record: it is the one that counts, and the next start, or the next change, catches up."""
        held = held_to_json(self._record)
        if held != self._held:
            write_atomic(self._held_path, held)
            self._held = held


def _read_or_nothing(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_RECORD_BYTES)
    except (OSError, FileTooLargeError):
        return b""
