"""Kill this process, as far as files can tell: from the n-th touch of the disk on, nothing reaches it any more.

Counts opens, fsyncs, renames, links, deletions, folders and modes. The n-th raises `Killed`, and so does every later one, so
that clean-up code does not run either. Only for code that runs in the test's own thread.
"""

import io
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

_OS = ("open", "fsync", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir", "chmod", "symlink", "ftruncate", "pwrite")


class Killed(BaseException):
    """What a kill looks like to the code that it hits: no `except Exception` sees it."""


class KillSwitch:
    """`with KillSwitch(n) as switch:` swallows the kill; `fired` says whether the code got as far as step n."""

    def __init__(self, step: int) -> None:
        self._left, self.fired, self._thread = step, False, threading.get_ident()
        self._saved: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        for module, names in ((os, _OS), (io, ("open",))):
            for name in names:
                real = getattr(module, name)
                self._saved.append((module, name, real))
                setattr(module, name, self._guard(real))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        for module, name, real in self._saved:
            setattr(module, name, real)
        return kind is not None and issubclass(kind, Killed)

    def strike(self) -> None:
        """What happens from step n on, before each touch."""
        self.fired = True
        raise Killed

    def _guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            if threading.get_ident() == self._thread:
                self._left -= 1
                if self._left <= 0:
                    self.strike()
            return real(*args, **keywords)

        return call
