"""What a labeller need not ask its teacher: rows whose input has a label already, and rows whose input comes twice in one unit."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import LabelStoreError
from pipeline.labels.content import is_key, repeats
from pipeline.labels.known import KnownLabels
from pipeline.labels.shard import Copied
from pipeline.labels.store import Store

REFRESH_EVERY_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the N rows of a unit before the teacher is asked."""

    keys_N2: NDArray[np.uint64] | None = None
    """None where labels are not reused."""
    copied: Copied | None = None
    repeats: Mapping[int, int] = field(default_factory=dict)
    """Place -> an earlier place with the same input, which is asked."""

    @property
    def places(self) -> set[int]:
        """Those that need not be asked."""
        return {*self.repeats, *(self.copied.places_C.tolist() if self.copied else ())}

    def keys_of(self, places_P: NDArray[np.int64], bad: Collection[int]) -> NDArray[np.uint64] | None:
        """Keys of the rows that are written; none for a row without a label of its own."""
        if self.keys_N2 is None:
            return None
        without = np.isin(places_P, np.array(list(bad), dtype=np.int64))
        return np.where(without[:, None], np.uint64(0), self.keys_N2[places_P])

    def copied_to(self, places_P: NDArray[np.int64]) -> Copied | None:
        """The copied labels, placed among the rows that are written, which all of them are."""
        if self.copied is None:
            return None
        return Copied(places_C=np.searchsorted(places_P, self.copied.places_C), columns=self.copied.columns)


NOTHING_KNOWN = Known()


class Reuse:
    """Looks up what one teacher said before. May be called from several threads."""

    def __init__(self, store: Store, *, maker: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._labels, self._clock = KnownLabels(store, maker=maker), clock
        self._looking = threading.Lock()
        self._look_again_s = -np.inf

    def look(self, keys_N2: NDArray[np.uint64]) -> Known:
        """What is known of a unit's rows. A row without a key, as one without input, is never known."""
        with self._looking:
            self._refresh()
            copied = self._labels.find(keys_N2)
        asked = np.flatnonzero(is_key(keys_N2))
        if copied:
            asked = np.setdiff1d(asked, copied.places_C)
        first = asked[repeats(keys_N2[asked])]
        again = first != asked
        return Known(keys_N2=keys_N2, copied=copied, repeats=dict(zip(asked[again].tolist(), first[again].tolist(), strict=True)))

    def _refresh(self) -> None:
        if self._clock() < self._look_again_s:
            return
        self._look_again_s = self._clock() + REFRESH_EVERY_S
        try:
            self._labels.refresh()
        except (LabelStoreError, OSError) as error:
            log.warning("known labels can't be looked up; the teacher is asked", extra={"reason": f"{type(error).__name__}: {error}"})
