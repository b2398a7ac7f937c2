"""Installing one release: does what the record's state says, step by step, from wherever the last process was killed.

Decisions are `pipeline.rollout.device`'s; here are their effects. Each step makes the record durable before the effect that
depends on it, and may be done again. What cannot be done now (no network, metadata expired) is raised and leaves the state; what
will never work ends it. The answering model changes only in TRIAL, with the incumbent kept running until the end of it.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.errors import ReleaseError
from pipeline.files import make_private_folder
from pipeline.releases.bundle import open_bundle
from pipeline.releases.golden import golden_misses
from pipeline.releases.manifest import BundleVersionError
from pipeline.releases.target import ReleaseTarget
from pipeline.rollout import device
from pipeline.rollout.device import RESTING, Machine, State
from pipeline.rollout.slots import Slot, SlotCorruptError, SlotMissingError, Slots
from workers.edge import download as downloads
from workers.edge.fleet_client import FleetRefusedError
from workers.edge.folder import RecordFile
from workers.edge.model_process import ModelDiedError, ModelRefusedError
from workers.edge.serving import Serving, StartModel
from workers.edge.shadow import compare, run_model
from workers.edge.shortcuts import Fetched, fetch_bundle
from workers.edge.trust import Trust


class InstallInterruptedError(Exception):
    """The agent is asked to stop; the step is done again by the next one."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long to look before a decision, in seconds."""

    shadow_s: float = 1.0
    """Waiting for live inputs, where there are none yet."""
    trial_s: float = 0.5
    """Answering with the candidate, incumbent ready, before it is confirmed."""


class Installer:
    """Carries one device's record from CHECK to a resting state."""

    def __init__(
        self,
        *,
        record: RecordFile,
        slots: Slots,
        downloads_folder: Path,
        trust: Trust,
        fetch: downloads.Fetch,
        serving: Serving,
        start: StartModel,
        probe: Callable[[], Machine],
        trusted_now: Callable[[], datetime],
        announce: Callable[[], None],
        stop: threading.Event,
        pace: Pace,
        on_bytes: Callable[[int], None] = lambda _: None,
        on_fetched: Callable[[Fetched], None] = lambda _: None,
    ) -> None:
        self._record, self._slots, self._folder = record, slots, downloads_folder
        self._trust, self._fetch, self._serving, self._start = trust, fetch, serving, start
        self._probe, self._trusted_now, self._announce = probe, trusted_now, announce
        self._stop, self._pace, self._on_bytes, self._on_fetched = stop, pace, on_bytes, on_fetched

    def advance(self) -> None:
        """Go on until the record rests. Raises what cannot be done now; InstallInterruptedError."""
        steps = {
            State.CHECK: self._check,
            State.DOWNLOAD: self._download,
            State.VERIFY: self._verify,
            State.STAGED: self._begin,
            State.SHADOW: self._begin,
            State.TRIAL: self._begin,
        }
        while self._record.current.state not in RESTING:
            if self._stop.is_set():
                raise InstallInterruptedError
            steps[self._record.current.state]()
        self.sweep()

    def sweep(self) -> None:
        """Delete what the record does not hold."""
        record = self._record.current
        wanted = {record.wanted.digest} if record.wanted is not None and record.state not in RESTING else set()
        if wanted and record.release is not None:
            wanted |= {delta.digest for delta in record.release.deltas}
        self._slots.keep(record.digests)
        downloads.clear(self._folder, keep=wanted)

    def _check(self) -> None:
        wanted = self._record.current.wanted
        if wanted is None:
            raise device.WrongStepError("check", State.CHECK)
        signed_unix_s = self._trust.refresh(self._trusted_now())
        self._record.save(device.learn_time(self._record.current, signed_unix_s, self._trust.root_version))
        try:
            release = self._trust.release(wanted.target)
        except ReleaseError as error:
            self._fail("release_invalid", error)
            return
        make_private_folder(self._folder)
        self._record.save(device.check(self._record.current, release, self._probe()))

    def _download(self) -> None:
        release = self._release()
        if self._slot(release.digest) is not None:
            self._record.save(device.staged(self._record.current))
            return
        try:
            fetched = fetch_bundle(
                release,
                folder=self._folder,
                fetch=self._fetch,
                slots=self._slots,
                held=self._record.current.digests,
                on_bytes=self._on_bytes,
            )
        except downloads.DownloadRefusedError as error:
            self._fail(error.code, error)
        except FleetRefusedError as error:
            if error.status != "NOT_FOUND":
                raise
            self._fail("bundle_not_found", error)
        else:
            self._record.save(device.downloaded(self._record.current, detail=fetched.says))
            self._on_fetched(fetched)

    def _verify(self) -> None:
        release = self._release()
        path = downloads.part_path(self._folder, release.digest)
        try:
            if self._slot(release.digest) is None:
                downloads.verify(path, digest=release.digest, length=release.length)
                manifest = open_bundle(path).manifest
                if (manifest.student, manifest.release) != (release.student, release.release):
                    self._fail("bundle_invalid", f"the manifest speaks of {manifest.student} {manifest.release}")
                    return
                self._slots.stage(path, release.digest)
        except downloads.DownloadRefusedError as error:
            self._fail(error.code, error)
        except FileNotFoundError as error:
            self._fail("download_lost", error)
        except BundleVersionError as error:
            self._record.save(device.incompatible(self._record.current, "bundle_version", str(error)))
        except (ReleaseError, SlotCorruptError) as error:
            self._fail("bundle_invalid", error)
        else:
            self._record.save(device.staged(self._record.current))

    def _begin(self) -> None:
        """Count a try, then do it. Before the switch the server hears of it, and may have changed its mind."""
        record = self._record.current
        if record.state is State.TRIAL or (record.state is State.STAGED and record.incumbent is None):
            self._announce()
            if self._record.current.generation != record.generation:
                return
        self._record.save(device.begin_try(self._record.current))
        phase = {State.SHADOW: self._shadow, State.TRIAL: self._trial}.get(self._record.current.state)
        if phase is None:
            return
        try:
            slot = self._slots.open(self._release().digest)
            phase(slot)
        except (SlotMissingError, SlotCorruptError) as error:
            self._fail("slot_corrupt", error)
        except ModelRefusedError as error:
            self._fail("model_refused", error)
        except ModelDiedError as error:
            self._fail("model_died", error)

    def _shadow(self, candidate: Slot) -> None:
        incumbent = self._serving.slot
        if incumbent is None:
            raise SlotMissingError("")
        if not self._serving.live_inputs() and self._stop.wait(self._pace.shadow_s):
            raise InstallInterruptedError
        evidence, misses = compare(self._start, incumbent=incumbent, candidate=candidate, live=self._serving.live_inputs())
        if misses is not None:
            self._fail("golden_mismatch", misses)
            return
        self._record.save(device.shadowed(self._record.current, evidence))

    def _trial(self, candidate: Slot) -> None:
        model = self._start(candidate, 0)
        try:
            found = run_model(model, [sample.input for sample in candidate.golden])
        except BaseException:
            model.close()
            raise
        misses = golden_misses(candidate.golden, found.probabilities_BK, candidate.manifest.tolerance)
        if misses is not None:
            model.close()
            self._fail("golden_mismatch", misses)
            return
        before = self._serving.switch(model)
        confirmed = False
        try:
            if self._stop.wait(self._pace.trial_s):
                raise InstallInterruptedError
            if not model.alive or self._serving.deaths > 0:
                raise ModelDiedError(candidate.digest, "its process ended during the trial")
            self._record.save(device.confirm(self._record.current))
            confirmed = True
        finally:
            leaving = before if confirmed else self._serving.switch(before)
            if leaving is not None:
                leaving.close()

    def _slot(self, digest: str) -> Slot | None:
        try:
            return self._slots.open(digest)
        except (SlotMissingError, SlotCorruptError):
            return None

    def _release(self) -> ReleaseTarget:
        release = self._record.current.release
        if release is None:
            raise device.WrongStepError("install", "without a release")
        return release

    def _fail(self, code: str, detail: object) -> None:
        self._record.save(device.fail(self._record.current, code, str(detail)))
