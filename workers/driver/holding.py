"""Holding a label log that lies elsewhere, for as long as a run or a verb that writes it lives; see `pipeline.labels.holder`."""

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from pipeline.errors import ConfigError, KdpipeError
from pipeline.labels.holder import HOLDER_KEY, Claim, LogHeldError, is_alive, read_claim, write_claim
from pipeline.labels.store import Store, open_store
from workers.driver.folder import RunFolder

EVERY_S = 5.0
LOOK_S = 0.5

log = logging.getLogger(__name__)


def holding_labels(
    folder: RunFolder, url: str, *, say: Callable[[str], None], take_over: bool = False
) -> contextlib.AbstractContextManager[object]:
    """Hold the labels at `url` for whoever holds `folder`: those in the folder are held by its lock, others by a heartbeat beside them.

    Entering raises LogHeldError where a live run of another folder holds them.
    """
    if url == str(folder.labels):
        return contextlib.nullcontext()
    holder = f"{socket.gethostname()}, pid {os.getpid()}, {folder.root}"
    return LogHolder(open_store(url), url, holder=holder, take_over=take_over, say=say)


def refuse_useless_take_over(folder: RunFolder, url: str) -> None:
    """Raises ConfigError where the labels lie in the folder: its lock is the system's and goes with its process, never before."""
    if url == str(folder.labels):
        raise ConfigError(
            "--take-over",
            f"the labels lie in {folder.root} and are held by its lock",
            "labels kept elsewhere (labelling.store)",
            f"`kdpipe stop {folder.root}` ends the run that holds it, `kill -KILL PID` one that is frozen",
        )


class LogHolder:
    """Beats until it is left. Raises LogHeldError where a live run holds the log, unless it is to be taken over."""

    def __init__(
        self,
        store: Store,
        url: str,
        *,
        holder: str,
        take_over: bool,
        say: Callable[[str], None],
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._url, self._take_over, self._say = store, url, take_over, say
        self._clock, self._wait = clock, wait
        self._claim = Claim(holder=holder, nonce=secrets.token_hex(8), beat=0, every_s=every_s)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="label log heartbeat", daemon=True)

    def __enter__(self) -> Self:
        if not self._take_over:
            self._refuse_living()
        write_claim(self._store, self._claim)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._is_mine():
            self._store.delete(HOLDER_KEY)

    def _refuse_living(self) -> None:
        first = read_claim(self._store)
        if first is None:
            return
        watched = f"looking for {first.patience_s:.0f} s if it lives"
        self._say(f"{self._url}: the last run there ({first.holder}) did not say that it ended; {watched}")
        deadline_s = self._clock() + first.patience_s
        while self._clock() < deadline_s:
            self._wait(LOOK_S)
            now = read_claim(self._store)
            if now is None:
                return  # it ended just now
            if is_alive(first, now):
                raise LogHeldError(self._url, now.holder)
        self._say(f"{first.holder} is silent; its log is taken over")

    def _beat(self) -> None:
        """A run whose log was taken over stops beating; its next write is refused by the log itself."""
        away = False
        while not self._over.wait(self._claim.every_s):
            try:
                if not self._is_mine():
                    return
                self._claim = self._claim.model_copy(update={"beat": self._claim.beat + 1})
                write_claim(self._store, self._claim)
                away = False
            except (KdpipeError, OSError) as error:  # away for a moment, or our credentials are renewed: a later beat tells
                if not away:
                    log.warning("the label log's heartbeat is not written", extra={"reason": str(error)})
                away = True

    def _is_mine(self) -> bool:
        found = read_claim(self._store)
        return found is not None and found.nonce == self._claim.nonce
