"""Faults at the n-th touch of the disk: this process is killed there, as far as files can tell, or the disk is full from there on.

Counts opens, writes, flushes, fsyncs, renames, links, deletions, folders and modes. Only for code that runs in the thread that made
the switch. Nothing is slept for: the n-th touch is the same one each time.
"""

import errno
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

_WRITES = ("fsync", "replace", "rename", "link", "mkdir", "symlink", "ftruncate", "pwrite")
_REST = ("unlink", "remove", "rmdir", "chmod")
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """What a kill looks like to the code that it hits: no `except Exception` sees it."""


class DiskSwitch:
    """Counts touches while it is entered, and hands each to `touch`."""

    def __init__(self) -> None:
        self.fired, self._thread = False, threading.get_ident()
        self._saved: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        for name in _WRITES:
            self._replace(os, name, self._guard(getattr(os, name), lambda *_: True))
        for name in _REST:
            self._replace(os, name, self._guard(getattr(os, name), lambda *_: False))
        self._replace(os, "open", self._guard(os.open, lambda path, flags, *_: bool(flags & _TO_WRITE)))
        self._replace(io, "open", self._guard_files(io.open))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        for module, name, real in self._saved:
            setattr(module, name, real)
        return kind is not None and issubclass(kind, Killed)

    def touch(self, *, writes: bool) -> None:
        """Before each touch; what it raises is what the code sees."""

    def _replace(self, module: Any, name: str, guard: Callable[..., Any]) -> None:
        self._saved.append((module, name, getattr(module, name)))
        setattr(module, name, guard)

    def _touched(self, *, writes: bool) -> None:
        if threading.get_ident() == self._thread:
            self.touch(writes=writes)

    def _guard(self, real: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            self._touched(writes=writes(*args))
            return real(*args, **keywords)

        return call

    def _guard_files(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *args: Any, **keywords: Any) -> Any:
            writes = not set(mode).isdisjoint("wax+")
            self._touched(writes=writes)
            opened = real(file, mode, *args, **keywords)
            return _Watched(opened, lambda: self._touched(writes=True)) if writes else opened

        return call


class KillSwitch(DiskSwitch):
    """`with KillSwitch(n) as switch:` swallows the kill; `fired` says whether the code got as far as step n.

    The n-th touch and every later one raise, so that clean-up code does not run either.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self._left = step

    def touch(self, *, writes: bool) -> None:
        self._left -= 1
        if self._left <= 0:
            self.strike()

    def soon(self) -> None:
        """Kill at the next touch."""
        self._left = 1

    def strike(self) -> None:
        """What happens from step n on, before each touch."""
        self.fired = True
        raise Killed


class RealKill(KillSwitch):
    """A real SIGKILL, for a process that was forked for it."""

    def strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(DiskSwitch):
    """The n-th write finds no room; with `for_ever`, so does every later one. Reading and deleting go on."""

    def __init__(self, step: int, *, for_ever: bool) -> None:
        super().__init__()
        self._left, self._for_ever = step, for_ever

    def touch(self, *, writes: bool) -> None:
        if not writes:
            return
        self._left -= 1
        if self._left == 0 or (self._left < 0 and self._for_ever):
            self.fired = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a full disk")


class _Watched:
    """A file whose writes and flushes are touches."""

    def __init__(self, file: Any, touched: Callable[[], None]) -> None:
        self._file, self._touched = file, touched

    def write(self, data: Any) -> Any:
        self._touched()
        return self._file.write(data)

    def flush(self) -> None:
        self._touched()
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
