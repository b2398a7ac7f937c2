"""What every label store must do, as one test class, and a store in memory that fails and crashes on request."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest

from pipeline.labels.store import ObjectMissingError, Store


class StoreContract:
    """Subclass it with a fixture `store`; it needs nothing but the protocol."""

    def test_an_object_reads_back_whole_and_in_ranges(self, store: Store) -> None:
        assert store.put_if_absent("a/b", b"0123456789")
        assert store.get("a/b") == b"0123456789"
        assert store.get_range("a/b", 3, 4) == b"3456"
        assert store.get_range("a/b", 8, 10) == b"89"
        assert store.size("a/b") == 10

    def test_an_object_is_never_made_twice(self, store: Store) -> None:
        assert store.put_if_absent("log/1", b"first")
        assert not store.put_if_absent("log/1", b"second")
        assert store.get("log/1") == b"first"

    def test_of_many_writers_at_once_exactly_one_makes_the_object(self, store: Store) -> None:
        gate, won = threading.Barrier(8), []

        def write(name: int) -> None:
            gate.wait()
            if store.put_if_absent("log/2", str(name).encode() * 1000):
                won.append(name)

        threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.get("log/2") == str(won[0]).encode() * 1000

    def test_put_replaces(self, store: Store) -> None:
        store.put("head", b"1")
        store.put("head", b"22")
        assert store.get("head") == b"22"
        assert store.size("head") == 2

    def test_what_is_not_there_is_missing(self, store: Store) -> None:
        for read in (lambda: store.get("no"), lambda: store.get_range("no", 0, 1)):
            with pytest.raises(ObjectMissingError, match="no object 'no'"):
                read()
        assert store.size("no") is None

    def test_delete_removes_and_may_be_repeated(self, store: Store) -> None:
        store.put("x/y", b"1")
        store.delete("x/y")
        store.delete("x/y")
        assert store.size("x/y") is None
        assert list(store.list("x/")) == []

    def test_list_is_ascending_and_by_prefix(self, store: Store) -> None:
        for key in ("log/10", "log/09", "log/head", "shards/1", "logs/1", "log/deep/1"):
            store.put(key, b"")
        assert list(store.list("log/")) == ["log/09", "log/10", "log/deep/1", "log/head"]
        assert list(store.list("log/1")) == ["log/10"]
        assert list(store.list("")) == ["log/09", "log/10", "log/deep/1", "log/head", "logs/1", "shards/1"]
        assert list(store.list("nothing/")) == []

    def test_a_listing_has_many_pages(self, store: Store) -> None:
        keys = [f"many/{number:04d}" for number in range(1_050)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda key: store.put(key, b""), keys))
        assert list(store.list("many/")) == keys
        store.delete(*keys)
        assert list(store.list("many/")) == []

    def test_a_range_beyond_the_end_is_short_and_never_an_error(self, store: Store) -> None:
        store.put("short", b"0123")
        assert [store.get_range("short", start, 10) for start in (0, 2, 4, 99)] == [b"0123", b"23", b"", b""]
        assert store.get_range("short", 1, 0) == b""

    def test_an_object_as_large_as_a_shard_is_whole_and_made_once(self, store: Store) -> None:
        data = bytes(range(256)) * 2**18
        store.put("large", data)
        assert store.size("large") == len(data)
        assert store.get("large") == data
        assert store.put_if_absent("large-once", data)
        assert not store.put_if_absent("large-once", b"")
        assert store.get("large-once") == data

    def test_a_reader_sees_the_old_bytes_or_the_new(self, store: Store) -> None:
        versions = [bytes([number]) * 50_000 for number in range(20)]
        store.put("head", versions[0])
        seen: list[bytes] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append(store.get("head"))

        reader = threading.Thread(target=read)
        reader.start()
        for version in versions:
            store.put("head", version)
        done.set()
        reader.join()
        assert set(seen) <= set(versions)

    def test_an_empty_object_is_an_object(self, store: Store) -> None:
        assert store.put_if_absent("empty", b"")
        assert store.get("empty") == b""
        assert store.size("empty") == 0


class Crash(BaseException):
    """The process ends here. A BaseException, so that no `except Exception` survives it."""


@dataclass
class _Fault:
    step: str
    skip: int
    act: Callable[[Callable[[], None]], None]
    """Called with what the step would do."""


class MemoryStore:
    """Objects in a dict. A step is `method key`; a fault is asked for by how its step begins.

    After a crash every call crashes, since a dead process writes nothing in a `finally` either, until `revive`.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.steps: list[str] = []
        self._faults: list[_Fault] = []
        self._crash_at: tuple[int, bool] | None = None
        self._dead = False
        self._lock = threading.RLock()

    def crash_before(self, step: str, *, skip: int = 0) -> None:
        """Crash instead of the step."""
        self._faults.append(_Fault(step, skip, lambda _do: self._crash()))

    def crash_after(self, step: str, *, skip: int = 0) -> None:
        """Do the step, then crash."""
        self._faults.append(_Fault(step, skip, self._do_and_crash))

    def lose_response(self, step: str, *, skip: int = 0) -> None:
        """Do the step, then raise ConnectionError, as if the answer was lost."""

        def lose(do: Callable[[], None]) -> None:
            do()
            raise ConnectionError("the answer was lost")

        self._faults.append(_Fault(step, skip, lose))

    def fail(self, step: str, error: Exception, *, skip: int = 0) -> None:
        """Raise `error` instead of the step."""

        def refuse(_do: Callable[[], None]) -> None:
            raise error

        self._faults.append(_Fault(step, skip, refuse))

    def crash_at(self, number: int, *, after: bool) -> None:
        """Crash before or after the `number`-th call from now that changes something."""
        self._crash_at = (number, after)

    def revive(self) -> None:
        """A new process: the objects are what they were, the faults are gone."""
        self._dead, self._crash_at = False, None
        self._faults.clear()

    def flip_bit(self, key: str, *, at: int, bit: int = 0) -> None:
        data = bytearray(self.objects[key])
        data[at] ^= 1 << bit
        self.objects[key] = bytes(data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        made = False

        def make() -> None:
            nonlocal made
            made = key not in self.objects
            if made:
                self.objects[key] = bytes(data)

        self._change(f"put_if_absent {key}", make)
        return made

    def put(self, key: str, data: bytes) -> None:
        self._change(f"put {key}", lambda: self.objects.__setitem__(key, bytes(data)))

    def delete(self, *keys: str) -> None:
        for key in keys:
            self._change(f"delete {key}", partial(self.objects.pop, key, None))

    def get(self, key: str) -> bytes:
        self._step(f"get {key}", lambda: None)
        with contextlib.suppress(KeyError):
            return self.objects[key]
        raise ObjectMissingError(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key)[start : start + length]

    def list(self, prefix: str) -> Iterator[str]:
        self._step(f"list {prefix}", lambda: None)
        yield from sorted(key for key in self.objects if key.startswith(prefix))

    def size(self, key: str) -> int | None:
        self._step(f"size {key}", lambda: None)
        return len(self.objects[key]) if key in self.objects else None

    def _change(self, step: str, do: Callable[[], object]) -> None:
        with self._lock:
            if self._crash_at and not self._dead:
                number, after = self._crash_at
                self._crash_at = (number - 1, after)
                if number == 0:
                    if after:
                        do()
                    self._crash()
            self._step(step, do)

    def _step(self, step: str, do: Callable[[], object]) -> None:
        if self._dead:
            raise Crash
        self.steps.append(step)
        for fault in self._faults:
            if step.startswith(fault.step):
                if fault.skip == 0:
                    self._faults.remove(fault)
                    fault.act(do)  # type: ignore[arg-type]
                    return
                fault.skip -= 1
        do()

    def _crash(self) -> None:
        self._dead = True
        raise Crash

    def _do_and_crash(self, do: Callable[[], None]) -> None:
        do()
        self._crash()
