"""Installing one release: does what the record's state says, step by step, from wherever the last process was killed.

Decisions are `pipeline.rollout.device`'s; here are their effects. Each step makes the record durable before the effect that
depends on it, and may be done again. What cannot be done now (no network, metadata expired) is raised and leaves the state; what
will never work ends it. The answering model changes only in TRIAL, with the incumbent kept running until the end of it. No more than
one model beside the answering one is in memory at any time.
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
from pipeline.rollout import device, heard
from pipeline.rollout.device import RESTING, Machine, State
from pipeline.rollout.slots import Slot, SlotCorruptError, SlotMissingError, Slots
from workers.edge import download as downloads
from workers.edge.fleet_client import FleetRefusedError
from workers.edge.folder import RecordFile
from workers.edge.model_process import ModelDiedError, ModelRefusedError
from workers.edge.serving import Model, Serving, StartModel, start_proven
from workers.edge.shadow import compare, run_model
from workers.edge.shortcuts import Fetched, fetch_bundle
from workers.edge.trust import Trust

LIVE_WANTED = 32
"""Live inputs that a shadow run waits for."""
_LOOK_S = 0.2
"""Between two looks whether the agent is asked to stop."""


class CandidateRefusedError(Exception):
    """The candidate started and is not good enough. `code` is for the report."""

    def __init__(self, code: str, found: str) -> None:
        super().__init__(code, found)
        self.code, self.found = code, found

    def __str__(self) -> str:
        return self.found


class InstallInterruptedError(Exception):
    """The agent is asked to stop; the step is done again by the next one."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long to look before a decision, in seconds."""

    shadow_s: float = 30.0
    """Waiting for live inputs at most; golden samples stand in for those that did not come."""
    trial_s: float = 20.0
    """Answering with the candidate, incumbent ready, before it is started anew and confirmed."""


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
        if record.generation > 0:  # a record begun anew knows nothing of its slots yet: an assignment may name one
            self._slots.keep(record.digests)
        downloads.clear(self._folder, keep=wanted)

    def _check(self) -> None:
        wanted = self._record.current.wanted
        if wanted is None:
            raise device.WrongStepError("check", State.CHECK)
        signed_unix_s = self._trust.refresh(self._trusted_now())
        self._record.save(heard.learn_time(self._record.current, signed_unix_s, self._trust.root_version))
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
        if self._record.save(device.begin_download(self._record.current)).state is not State.DOWNLOAD:
            return
        try:
            fetched = self._fetch_counted(release)
        except downloads.DownloadRefusedError as error:
            self._fail(error.code, error)
        except FleetRefusedError as error:
            if error.status != "NOT_FOUND":
                raise
            self._fail("bundle_not_found", error)
        else:
            self._record.save(device.downloaded(self._record.current, way=fetched.way, detail=fetched.says))
            self._on_fetched(fetched)

    def _fetch_counted(self, release: ReleaseTarget) -> Fetched:
        """What arrives counts, whole or not: a server that never sends the right bytes is not asked for ever."""
        arrived = [0]

        def count(size: int) -> None:
            arrived[0] += size
            self._on_bytes(size)

        try:
            return fetch_bundle(
                release,
                folder=self._folder,
                fetch=self._fetch,
                slots=self._slots,
                held=self._record.current.digests,
                on_bytes=count,
            )
        finally:
            self._record.save(device.fetched(self._record.current, arrived[0]))

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
        else:
            self._await_live_inputs()  # before the try: a device that is switched off meanwhile has tried nothing
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
        except CandidateRefusedError as error:
            self._fail(error.code, error)
        except InstallInterruptedError:
            self._record.save(device.give_back_try(self._record.current))
            raise

    def _shadow(self, candidate: Slot) -> None:
        incumbent = self._serving.slot
        if incumbent is None:
            raise SlotMissingError("")
        evidence, misses = compare(self._start, incumbent=incumbent, candidate=candidate, live=self._serving.live_inputs())
        _judge(candidate, misses, evidence.memory_bytes)
        if set(incumbent.manifest.classes) == set(candidate.manifest.classes):
            found = device.disagreement(evidence, self._release().shadow_floor_percent)
            if found is not None:
                raise CandidateRefusedError("shadow_disagrees", found)
        self._record.save(device.shadowed(self._record.current, evidence))

    def _await_live_inputs(self) -> None:
        left_s = self._pace.shadow_s
        while left_s > 0 and not self._serving.await_live_inputs(LIVE_WANTED, min(left_s, _LOOK_S)):
            if self._stop.is_set():
                raise InstallInterruptedError
            left_s -= _LOOK_S

    def _trial(self, candidate: Slot) -> None:
        """Answer with the candidate, then start it anew from the disk: what is confirmed has proved that it comes up again."""
        first = start_proven(self._start, candidate, prove)
        before = self._serving.switch(first)
        up: list[Model | None] = [first, before]
        kept = before
        try:
            if self._stop.wait(self._pace.trial_s):
                raise InstallInterruptedError
            prove(first)
            if not first.alive or self._serving.deaths > 0:
                raise ModelDiedError(candidate.digest, "its process ended during the trial")
            if before is not None:  # it answers while the candidate starts: two models at most
                up.append(self._serving.switch(before))
                first.close()
            second = start_proven(self._start, self._slots.open(candidate.digest), prove)
            up += [second, self._serving.switch(second)]
            kept = second
            self._record.save(device.confirm(self._record.current))
        except BaseException:
            if self._record.current.state is not State.CONFIRMED:  # it is, where only the last sync of the record failed
                kept = before
            raise
        finally:
            if kept is before:
                up.append(self._serving.switch(before))
            for model in up:
                if model is not None and model is not kept:
                    model.close()

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


def prove(model: Model) -> None:
    """Raises CandidateRefusedError unless the model answers its golden samples within its memory; ModelDiedError, ModelRefusedError."""
    slot = model.slot
    found = run_model(model, [sample.input for sample in slot.golden])
    _judge(slot, golden_misses(slot.golden, found.probabilities_BK, slot.manifest.tolerance), found.memory_bytes)


def _judge(slot: Slot, misses: str | None, memory_bytes: int) -> None:
    if misses is not None:
        raise CandidateRefusedError("golden_mismatch", misses)
    limit_bytes = device.memory_limit_bytes(slot.manifest.memory_bytes)
    if memory_bytes > limit_bytes:
        raise CandidateRefusedError("memory_over_budget", f"holds {memory_bytes} bytes, its limit is {limit_bytes}")
