"""The windows that batches come from: a few of them are held, and while batches of one are handed out a thread loads the next.

To load a window is to map or fetch its shards, check every byte of them, draw the order of its rows and put what is narrow into it; most
of that leaves the interpreter to others. At most one window is loaded ahead. What is loaded is the same either way: a function of the
log's state, the seed, the epoch and the window's number. An error of loading ahead is forgotten, and the window loaded anew once it is
asked for: by then it may be repaired, and if not the error is raised where it belongs.

Which window comes next is left to the caller, and so is that one thread at a time asks. The loading thread begins with the first window
that has a next one, and ends with the last reference to this.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.errors import LabelStoreError
from pipeline.labels.entries import ShardRef
from pipeline.labels.log import LogReader
from pipeline.labels.order import permutation
from pipeline.labels.shard import Shard, ShardCorruptError, read_shard
from pipeline.labels.state import LogState
from pipeline.labels.store import Store
from pipeline.labels.window import Window, window_of

WINDOWS_HELD = 2
"""Beside the one that is loaded ahead. Few batches lie in more."""


class WindowDroppedError(LabelStoreError):
    """A window that the retention policy let go."""

    def __init__(self, window: int, first_kept: int) -> None:
        super().__init__(window, first_kept)
        self.window, self.first_kept = window, first_kept

    def __str__(self) -> str:
        return (
            f"window {self.window} was dropped by the retention policy; expected one from {self.first_kept} on; "
            "a generation that older labels are needed for is over: `kdpipe run` goes on with the newest"
        )


class MixedTeachersError(LabelStoreError):
    """The labels were written by teachers that differ."""

    def __init__(self, teachers: tuple[str, ...]) -> None:
        super().__init__(teachers)
        self.teachers = teachers

    def __str__(self) -> str:
        return (
            f"labels of {len(self.teachers)} different teachers ({', '.join(sorted(self.teachers))}); expected one; "
            "use another --dir, throw the labels away with `kdpipe clean DIR --labels`, or learn from all with "
            "`--set labelling.mixed_teachers=true`"
        )


class Windows:
    """The windows of a log, in the orders of one seed."""

    def __init__(self, store: Store, log: LogReader, *, seed: int, mixed_teachers: bool) -> None:
        self._store, self._log, self._seed, self._mixed_teachers = store, log, seed, mixed_teachers
        self._held: OrderedDict[tuple[int, int], Window] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loads the next window")
        self._ahead: tuple[tuple[int, int], Future[Window]] | None = None

    def held(self, window: int, epoch: int) -> Window | None:
        """A window that is in memory."""
        return self._held.get((window, epoch))

    def load(self, window: int, epoch: int, *, after: int | None) -> Window:
        """A window that is not held yet; `after` is the one of this epoch that is asked for after it, which is loaded meanwhile.

        Raises WindowDroppedError, ShardCorruptError, ShardUnknownError, MixedTeachersError, MixedEmbeddingsError.
        """
        self._refuse_dropped(window)
        loaded = self._loaded_ahead(window, epoch) or self._load(window, epoch)
        teachers = loaded.teachers | self._log.state.teachers
        if not self._mixed_teachers and len(teachers) > 1:
            raise MixedTeachersError(tuple(teachers))
        if after is not None and after >= self._log.state.dropped_windows:
            refs = _shards_of(self._log.state, after)
            # What runs in the thread has no reference to this, so that its last one can go meanwhile.
            self._ahead = (after, epoch), self._pool.submit(_read_window, self._store, refs, (self._seed, epoch, after))
        self._held[window, epoch] = loaded
        if len(self._held) > WINDOWS_HELD:
            self._held.popitem(last=False)
        return loaded

    def _loaded_ahead(self, window: int, epoch: int) -> Window | None:
        """The window, once it is there; None if another was looked for, or it could not be loaded."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        of, loading = ahead
        if of != (window, epoch):
            loading.cancel()
            return None
        return loading.result() if loading.exception() is None else None

    def _load(self, window: int, epoch: int) -> Window:
        draw = (self._seed, epoch, window)
        try:
            return _read_window(self._store, _shards_of(self._log.state, window), draw)
        except ShardCorruptError:
            self._log.refresh()  # perhaps repaired by now
        self._refuse_dropped(window)
        return _read_window(self._store, _shards_of(self._log.state, window), draw)

    def _refuse_dropped(self, window: int) -> None:
        if window < self._log.state.dropped_windows:
            raise WindowDroppedError(window, self._log.state.dropped_windows)


_Refs = Sequence[tuple[str, ShardRef]]
"""Of shards, in log order: the key that the commit has, and where the bytes are now."""


def _shards_of(state: LogState, window: int) -> _Refs:
    seal = state.windows[window]
    return [(commit.shard.key, state.shard_of(commit)) for commit in state.commits[seal.first_commit : seal.stop_commit]]


def _read_window(store: Store, refs: _Refs, draw: tuple[int, int, int]) -> Window:
    shards = [_checked(store, named, ref) for named, ref in refs]
    return window_of(shards, permutation(sum(len(shard.table) for shard in shards), *draw))


def _checked(store: Store, named: str, ref: ShardRef) -> Shard:
    """A bad one is named as its commit names it."""
    try:
        return read_shard(store, ref)
    except ShardCorruptError as error:
        raise ShardCorruptError(named, error.expected, error.found) from error
