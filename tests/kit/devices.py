"""One device in the test's own thread: real record, slots, trust, downloads and installer; the model is computed from the slot's file.

`Device.open` on the same folder again is a restart. Faults are method calls.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.releases.target import ReleaseTarget
from pipeline.rollout import device
from pipeline.rollout.device import DeviceRecord, Machine, Wanted
from pipeline.rollout.slots import Slot, Slots
from tests.kit.bundles import NOW, Trust
from workers.edge.fleet_client import FleetRefusedError, FleetUnreachableError
from workers.edge.folder import DeviceFolder, RecordFile
from workers.edge.install import Installer, Pace
from workers.edge.model_process import Logits, ModelDiedError, ModelRefusedError
from workers.edge.serving import Serving, StartModel
from workers.edge.trust import Trust as DeviceTrust

CHUNK_BYTES = 512


class TableModel:
    """A text student computed from its slot's weights.bin, without a process. `Models` decides when it dies."""

    def __init__(self, slot: Slot, models: "Models") -> None:
        self.slot, self._models = slot, models
        self._table = np.fromfile(slot.folder / "weights.bin", dtype=np.float32).reshape(256, -1)
        self._alive = True

    @property
    def alive(self) -> bool:
        return self._alive

    def run(self, batch: NDArray[Any]) -> Logits:
        self._models.batches.append(len(batch))
        self._models.on_run()
        self._models.entered.release()
        self._models.hold.wait()
        if self._models.poison is not None and (batch[:, 0] == self._models.poison).any():
            self._alive = False
        if self._models.dies(self.slot.digest):
            self._alive = False
        if not self._alive:
            raise ModelDiedError(self.slot.digest, "it was told to")
        return Logits(logits_BK=self._table[batch].sum(axis=1).astype(np.float32), run_s=0.001)

    def memory_bytes(self) -> int:
        return self._models.memory_bytes.get(self.slot.digest, 1 << 20)

    def close(self) -> None:
        self._alive = False
        self._models.running.discard(id(self))

    def kill(self) -> None:
        self._alive = False


class Models:
    """Starts models, and makes them fail."""

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.started: list[str] = []
        self.deadly: dict[str, int] = {}
        """Digest -> answers until it dies, on every start."""
        self.refused: set[str] = set()
        self.memory_bytes: dict[str, int] = {}
        self.most_running = 0
        self.on_start: Callable[[str], None] = lambda digest: None
        self.on_run: Callable[[], None] = lambda: None
        self.batches: list[int] = []
        """Rows of each run, of any model."""
        self.entered = threading.Semaphore(0)
        """Released at each run."""
        self.hold = threading.Event()
        """Cleared: runs wait until it is set."""
        self.hold.set()
        self.poison: int | None = None
        """A first byte that ends the model that sees it."""

    def start(self, slot: Slot, niceness: int) -> TableModel:
        self.started.append(slot.digest)
        self.on_start(slot.digest)
        if slot.digest in self.refused:
            raise ModelRefusedError(slot.digest, "it was told to")
        model = TableModel(slot, self)
        self.running.add(id(model))
        self.most_running = max(self.most_running, len(self.running))
        return model

    def dies(self, digest: str) -> bool:
        left = self.deadly.get(digest)
        if left is None:
            return False
        self.deadly[digest] = left - 1
        return left <= 0


class Device:
    """A device of a repository, without a network."""

    def __init__(self, folder: Path, fleet: Trust, *, now: datetime = NOW, start: StartModel | None = None) -> None:
        """`start` takes the place of the models without processes."""
        self.folder, self.fleet, self.now = DeviceFolder(folder), fleet, now
        folder.mkdir(parents=True, exist_ok=True)
        self.models = Models()
        self.serving = Serving(start or self.models.start)
        self.record = RecordFile(self.folder.state, incarnation=1)
        self.slots = Slots(self.folder.slots)
        self.stop = threading.Event()
        self.machine = Machine(hardware="test", free_disk_bytes=1 << 40, free_memory_bytes=1 << 40)
        self.announced: list[DeviceRecord] = []
        self.on_announce: Callable[[], None] = lambda: None
        self.cut_after_bytes: int | None = None
        self.rewrite: Callable[[bytes], bytes] = lambda data: data
        self.rechunk: Callable[[Iterator[bytes]], Iterator[bytes]] = lambda chunks: chunks
        self.rewrite_metadata: Callable[[str, bytes], bytes | None] = lambda name, data: data
        self.offline = False
        self.missing: set[str] = set()
        """Digests that the fleet has lost."""
        self._arrived: dict[str, int] = {}
        self.trust = DeviceTrust(self.folder.tuf, root=fleet.root, fetch=self._metadata)
        self.installer = Installer(
            record=self.record,
            slots=self.slots,
            downloads_folder=self.folder.downloads,
            trust=self.trust,
            fetch=self._fetch,
            serving=self.serving,
            start=start or self.models.start,
            probe=lambda: self.machine,
            trusted_now=lambda: self.now,
            announce=self._announce,
            stop=self.stop,
            pace=Pace(shadow_s=0, trial_s=0),
        )

    @property
    def fetched(self) -> list[tuple[str, int]]:
        """(digest, bytes) of what came, in order."""
        return list(self._arrived.items())

    def boot(self) -> None:
        incumbent = self.record.current.incumbent
        if incumbent is not None:
            self.serving.serve(self.slots.open(incumbent.digest))
        self.installer.sweep()

    def assign(self, target: ReleaseTarget, generation: int) -> None:
        wanted = Wanted(generation=generation, target=target.path, digest=target.digest)
        self.record.save(device.assign(self.record.current, wanted))

    def install(self, target: ReleaseTarget, generation: int) -> DeviceRecord:
        self.assign(target, generation)
        self.installer.advance()
        return self.record.current

    def later(self, time: timedelta) -> None:
        self.now += time

    def _announce(self) -> None:
        self.announced.append(self.record.current)
        self.on_announce()

    def _metadata(self, name: str) -> bytes:
        if self.offline:
            raise FleetUnreachableError("GetMetadata", "offline")
        path = self.fleet.repository / "metadata" / name
        data = self.rewrite_metadata(name, path.read_bytes()) if path.exists() else None
        if data is None:
            raise FleetRefusedError("GetMetadata", "NOT_FOUND", name)
        return data

    def _fetch(self, digest: str, offset: int) -> Iterator[bytes]:
        if self.offline:
            raise FleetUnreachableError("Fetch", "offline")
        path = self.fleet.repository / "bundles" / digest
        if digest in self.missing or not path.exists():
            raise FleetRefusedError("Fetch", "NOT_FOUND", digest)
        for chunk in self.rechunk(self._chunks(self.rewrite(path.read_bytes())[offset:])):
            self._arrived[digest] = self._arrived.get(digest, 0) + len(chunk)
            yield chunk

    def _chunks(self, data: bytes) -> Iterator[bytes]:
        sent = 0
        while sent < len(data):
            if self.cut_after_bytes is not None and sent >= self.cut_after_bytes:
                raise FleetUnreachableError("Fetch", "cut")
            chunk = data[sent : sent + CHUNK_BYTES]
            sent += len(chunk)
            yield chunk
