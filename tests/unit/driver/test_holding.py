"""Two runs at one label log that lies elsewhere: the second is told of the first, unless that is dead or to be taken over."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import load
from pipeline.errors import ConfigError
from pipeline.labels.holder import HOLDER_KEY, Claim, LogHeldError, is_alive, read_claim, write_claim
from pipeline.labels.store import LocalStore
from pipeline.object_service import ServiceDeniedError
from tests.kit.holders import OTHER, another_run
from tests.kit.stores import MemoryStore
from workers.driver import run as running
from workers.driver.folder import RunFolder, holder_of
from workers.driver.holding import LogHolder
from workers.driver.request import RunRequest


class Hands:
    """A clock that moves when somebody waits; each wait may have something happen."""

    def __init__(self, *happens) -> None:
        self.now_s, self.said = 0.0, list[str]()
        self._happens = list(happens)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        if self._happens:
            self._happens.pop(0)()

    def hold(self, store: MemoryStore, name: str = "me", **options) -> LogHolder:
        given = {"take_over": False, "every_s": 3600.0} | options
        return LogHolder(store, "s3://b/p", holder=name, say=self.said.append, clock=lambda: self.now_s, wait=self.wait, **given)


def claim(beat: int = 0, nonce: str = "other") -> Claim:
    return Claim(holder="the other", nonce=nonce, beat=beat, every_s=2.0)


def test_a_log_that_nobody_claims_is_held_at_once_and_let_go_at_the_end():
    store, hands = MemoryStore(), Hands()
    with hands.hold(store):
        found = read_claim(store)
        assert found
        assert found.holder == "me"
    assert HOLDER_KEY not in store.objects
    assert hands.said == []


def test_a_live_run_is_named_to_the_second():
    store = MemoryStore()
    write_claim(store, claim())
    hands = Hands(lambda: None, lambda: write_claim(store, claim(beat=1)))
    with pytest.raises(LogHeldError, match=r"live run \(the other\).*--take-over"), hands.hold(store):
        pass
    assert read_claim(store) == claim(beat=1), "its claim is left alone"


def test_a_silent_one_is_taken_over_after_three_of_its_own_beats():
    store, hands = MemoryStore(), Hands()
    write_claim(store, claim())
    with hands.hold(store):
        assert hands.now_s == pytest.approx(6, abs=0.6)
        found = read_claim(store)
        assert found
        assert found.holder == "me"
    assert "is silent; its log is taken over" in hands.said[-1]


def test_one_that_ends_while_it_is_watched_is_followed_at_once():
    store = MemoryStore()
    write_claim(store, claim())
    hands = Hands(lambda: store.delete(HOLDER_KEY))
    with hands.hold(store):
        assert hands.now_s < 1


def test_to_take_over_is_to_wait_for_nobody():
    store, hands = MemoryStore(), Hands()
    write_claim(store, claim())
    with hands.hold(store, take_over=True):
        assert hands.now_s == 0


def test_a_run_that_was_taken_over_leaves_the_new_ones_claim_alone():
    store, hands = MemoryStore(), Hands()
    with hands.hold(store):
        write_claim(store, claim(nonce="the next"))
    assert read_claim(store) == claim(nonce="the next")


def test_the_holder_beats_and_stops_once_it_is_taken_over():
    beaten = threading.Event()

    class Watched(MemoryStore):
        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            found = read_claim(self)
            if found and found.beat >= 3:
                beaten.set()

    store, hands = Watched(), Hands()
    with hands.hold(store, every_s=0.001) as held:
        assert beaten.wait(20)
        store.objects[HOLDER_KEY] = claim(nonce="the next").model_dump_json().encode()
        held._thread.join(20)
        assert not held._thread.is_alive()


@pytest.mark.parametrize("step", ["get", "put"])
@pytest.mark.parametrize("error", [ServiceDeniedError("s3://b/p", "403"), ConnectionError("away")])
def test_a_store_that_refuses_for_a_while_ends_no_heartbeat_and_is_told_once(caplog, step, error):
    again = threading.Event()

    class Watched(MemoryStore):
        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            if len(self.steps) > 20:
                again.set()

    store, hands = Watched(), Hands()
    for _ in range(5):
        store.fail(f"{step} {HOLDER_KEY}", error, skip=1)
    with hands.hold(store, take_over=True, every_s=0.001):
        assert again.wait(20)
    told = [record for record in caplog.records if record.message == "the label log's heartbeat is not written"]
    assert len(told) == 1
    assert str(error) == told[0].reason
    assert HOLDER_KEY not in store.objects


def test_a_claim_that_is_not_understood_holds_nobody_up():
    store, hands = MemoryStore(), Hands()
    store.put(HOLDER_KEY, b'{"version": 9}')
    with hands.hold(store):
        assert hands.now_s == 0


@given(first=st.integers(0, 5), now=st.none() | st.integers(0, 5), same=st.booleans())
def test_only_a_changed_claim_is_a_sign_of_life(first, now, same):
    found = None if now is None else claim(beat=now, nonce="other" if same else "third")
    assert is_alive(claim(beat=first), found) == (now is not None and (now != first or not same))


RUN = """
name = "mine"
classes = ["ham", "spam"]
[stream]
path = "stream"
[validation]
path = "stream"
[teacher]
use = "memory:load"
[labelling]
{store}
[students.tiny]
[fleet.populations.phones]
student = "tiny"
devices = 1
"""


def request(base: Path, store: str = "", *, take_over: bool = False) -> RunRequest:
    run = load(RUN.replace("{store}", store), where="run.toml")
    return RunRequest(name="run.toml", run=run, base=base, folder=RunFolder(base / "run"), take_over=take_over)


@pytest.fixture
def found_holding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Who held the log when the run itself would have begun; it ends at once instead."""
    found: list[str] = []

    def look(*_: object) -> None:
        claim = read_claim(LocalStore(tmp_path / "elsewhere"))
        found.append(claim.holder if claim else "nobody")

    monkeypatch.setattr(running, "_go", look)
    return found


def test_a_second_run_at_one_log_is_refused_before_it_does_anything(tmp_path: Path, found_holding: list[str]):
    with another_run(LocalStore(tmp_path / "elsewhere")), pytest.raises(LogHeldError, match=OTHER):
        running.drive(request(tmp_path, 'store = "elsewhere"'))
    assert found_holding == []
    assert holder_of(RunFolder(tmp_path / "run")) is None, "the folder is let go"


def test_a_run_that_takes_over_holds_the_log_while_it_lives(tmp_path: Path, found_holding: list[str]):
    write_claim(LocalStore(tmp_path / "elsewhere"), claim())
    running.drive(request(tmp_path, 'store = "elsewhere"', take_over=True))
    (holder,) = found_holding
    assert str(tmp_path / "run") in holder
    assert read_claim(LocalStore(tmp_path / "elsewhere")) is None


def test_labels_in_the_runs_own_folder_need_no_heartbeat(tmp_path: Path, found_holding: list[str]):
    running.drive(request(tmp_path))
    assert found_holding == ["nobody"]
    assert not (tmp_path / "run" / "labels" / HOLDER_KEY).exists()


def test_taking_over_what_a_lock_holds_is_refused_with_what_to_do(tmp_path: Path, found_holding: list[str]):
    with pytest.raises(ConfigError, match=r"held by its lock.*kdpipe stop .*kill -KILL PID"):
        running.drive(request(tmp_path, take_over=True))
    assert found_holding == []
