"""Releases, bytes and clocks that are bad in every way: each must leave the device answering, with a reason.

Bytes that are not the signed ones; bundles that are rightly signed and no bundles; models that are rightly signed and hang, bloat,
crash or answer wrongly, in real processes; clocks ten years off. Each case is a function that returns what is wrong, or nothing.
"""

import itertools
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from unittest import mock

from pipeline.releases.bundle import BundleFile, digest_file
from pipeline.releases.online import OnlineRepository
from pipeline.releases.target import ReleaseTarget
from pipeline.rollout.device import DeviceRecord, State
from pipeline.rollout.slots import Slot
from tests.kit.agents import AgentBench
from tests.kit.bad_students import bloated_bundle, hanging_bundle
from tests.kit.bundles import NOW, TEXTS, Trust, text_bundle, wrong_golden
from workers.edge.model_process import ModelProcess
from workers.edge.serving import StartModel

TEN_YEARS = timedelta(days=3650)
TURNS = 40
ANSWER_TIMEOUT_S = 1.0
"""In place of the agent's own, so that a model that hangs is given up soon."""


class Ground:
    """A fleet with a good release, and what is made for a case."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.trust = folder, Trust.make(folder)
        self.numbers = itertools.count(2)
        self.good = self.trust.publish(text_bundle(folder / "bundles", release=1), release=1)

    def device(self, name: str, *, start: StartModel | None = None) -> AgentBench:
        bench = AgentBench(self.folder / name, self.trust, start=start)
        bench.assign(self.good, 1, valid_days=20_000)
        bench.agent.turn()
        return bench

    def next(self, make: Callable[[Path, int], BundleFile]) -> ReleaseTarget:
        number = next(self.numbers)
        bundle = make(self.folder / f"release-{number}", number)
        with mock.patch("pipeline.releases.online.OnlineRepository._store", _store_unseen):  # it would not take a bad one
            return self.trust.publish(bundle, release=number)

    def verdict(self, bench: AgentBench, target: ReleaseTarget, state: State, *codes: str) -> str:
        """Assign; the release must end so, and the good one answer all the while."""
        bench.assign(target, 2, valid_days=20_000)
        for _ in range(TURNS):
            bench.agent.turn()
        record = bench.device.record.current
        answers = bench.device.serving.predict(TEXTS).slot.digest
        bench.device.serving.close()
        if answers != self.good.digest:
            return f"{answers[:12]} answers"
        return _unless(record, state, codes)


def hostile(folder: Path, *, processes: bool = True) -> Iterator[tuple[str, str]]:
    """(case, what is wrong with how it ended; empty if nothing). Without `processes`, those that need no model's process."""
    ground = Ground(folder)
    for name, rechunk, codes in _STREAMS:
        bench = ground.device(name)
        bench.device.rechunk = rechunk
        yield name, ground.verdict(bench, ground.next(_good), State.FAILED, *codes)
    for name, make, codes in _BUNDLES:
        yield name, ground.verdict(ground.device(name), ground.next(make), State.FAILED, *codes)
    yield "a clock ten years behind", _clock_behind(ground)
    yield "a clock ten years ahead", _clock_ahead(ground)
    if not processes:
        return
    with mock.patch("workers.edge.model_process.ANSWER_TIMEOUT_S", ANSWER_TIMEOUT_S):
        for name, make, codes in _MODELS:
            bench = ground.device(name, start=ModelProcess.start)
            yield name, ground.verdict(bench, ground.next(make), State.FAILED, *codes)
        yield "a model that crashes", _crashes(ground)
        yield "a model that leaks", _leaks(ground)


def _good(folder: Path, number: int) -> BundleFile:
    return text_bundle(folder, release=number, seed=number)


def _wrong(folder: Path, number: int) -> BundleFile:
    return text_bundle(folder, release=number, seed=number, golden=wrong_golden(number))


def _someone_elses(folder: Path, number: int) -> BundleFile:
    return text_bundle(folder, release=number, student="other")


def _zip_bomb(folder: Path, number: int) -> BundleFile:
    bundle = _good(folder, number)
    with zipfile.ZipFile(bundle.path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(bundle.path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, bytes(256 << 20) if name == "weights.bin" else data)
    return _as_it_is(bundle.path)


def _no_zip(folder: Path, number: int) -> BundleFile:
    folder.mkdir()
    path = folder / "noise.kdpb"
    path.write_bytes(bytes(range(256)) * 64)
    return _as_it_is(path)


def _cut_zip(folder: Path, number: int) -> BundleFile:
    bundle = _good(folder, number)
    bundle.path.write_bytes(bundle.path.read_bytes()[:-40])
    return _as_it_is(bundle.path)


def _as_it_is(path: Path) -> BundleFile:
    digest, length = digest_file(path)
    return BundleFile(path=path, sha256=digest, length=length)


def _store_unseen(online: OnlineRepository, bundle: Path, targets: list[ReleaseTarget]) -> None:
    bundle.replace(online._dir / "bundles" / digest_file(bundle)[0])


def _flipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for number, chunk in enumerate(chunks):
        yield bytes([chunk[0] ^ 1]) + chunk[1:] if number == 2 else chunk


def _cut(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield from itertools.repeat(b"~", 1200)  # never the right bytes, and never the end


def _endless(chunks: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        yield bytes(512)


def _oversized(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield b"".join(chunks) + bytes(1 << 20)


_STREAMS: tuple[tuple[str, Callable[[Iterator[bytes]], Iterator[bytes]], tuple[str, ...]], ...] = (
    ("a chunk with a flipped bit", _flipped, ("digest_mismatch",)),
    ("a stream cut again and again", _cut, ("byte_budget",)),
    ("an endless stream", _endless, ("wrong_length",)),
    ("a chunk beyond the end", _oversized, ("wrong_length",)),
)
_BUNDLES: tuple[tuple[str, Callable[[Path, int], BundleFile], tuple[str, ...]], ...] = (
    ("a zip bomb, rightly signed", _zip_bomb, ("bundle_invalid",)),
    ("no zip, rightly signed", _no_zip, ("bundle_invalid",)),
    ("a truncated zip, rightly signed", _cut_zip, ("bundle_invalid",)),
    ("another student's bundle, rightly signed", _someone_elses, ("bundle_invalid",)),
    ("wrong answers, rightly signed", _wrong, ("golden_mismatch",)),
)
_MODELS: tuple[tuple[str, Callable[[Path, int], BundleFile], tuple[str, ...]], ...] = (
    ("a model that hangs", lambda folder, number: hanging_bundle(folder, release=number), ("model_died",)),
    ("a model that wants 32 GiB", lambda folder, number: bloated_bundle(folder, release=number), ("model_refused", "model_died")),
)


def _crashes(ground: Ground) -> str:
    """Its process is gone with each start, once the graph is loaded."""
    target = ground.next(_good)

    def start(slot: Slot, niceness: int) -> ModelProcess:
        model = ModelProcess.start(slot, niceness)
        if slot.digest == target.digest:
            os.kill(model.pid, signal.SIGSEGV)
        return model

    return ground.verdict(ground.device("crash", start=start), target, State.FAILED, "model_died")


def _leaks(ground: Ground) -> str:
    """Its process holds more than it may by the time that it is looked at."""
    target = ground.next(_good)

    class Leaking(ModelProcess):
        def memory_bytes(self) -> int:
            return 1 << 40 if self.slot.digest == target.digest else super().memory_bytes()

    return ground.verdict(ground.device("leak", start=Leaking.start), target, State.FAILED, "memory_over_budget")


def _clock_behind(ground: Ground) -> str:
    bench, target = ground.device("behind"), ground.next(_good)
    bench.wall = (NOW - TEN_YEARS).timestamp()
    bench.assign(target, 2, valid_days=20_000)
    bench.agent.turn()
    if not bench.agent.status.clock_wrong:
        return "the clock is not shown as wrong"
    return _unless(bench.device.record.current, State.CONFIRMED, ("",))


def _clock_ahead(ground: Ground) -> str:
    """Nothing expired is installed, answers go on, and the right time heals it."""
    bench, target = ground.device("ahead"), ground.next(_good)
    bench.wall = (NOW + TEN_YEARS).timestamp()
    bench.assign(target, 2, valid_days=20_000)
    for _ in range(TURNS):
        bench.agent.turn()
    if bench.device.serving.predict(TEXTS).slot.digest != ground.good.digest or not bench.agent.status.clock_wrong:
        return "it installed, or does not show its clock as wrong"
    bench.wall = NOW.timestamp()
    bench.agent.turn()
    return _unless(bench.device.record.current, State.CONFIRMED, ("",))


def _unless(record: DeviceRecord, state: State, codes: tuple[str, ...]) -> str:
    if record.state is state and record.code in codes:
        return ""
    return f"it is in {record.state} {record.code!r} ({record.detail}); expected {state} {codes}"
