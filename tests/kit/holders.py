"""A live run somewhere else, as far as a label log can tell."""

import contextlib
import threading
from collections.abc import Iterator
from itertools import count

from pipeline.labels.holder import HOLDER_KEY, Claim, write_claim
from pipeline.labels.store import Store

OTHER = "the other host, pid 7"


@contextlib.contextmanager
def another_run(store: Store) -> Iterator[None]:
    """Beats until it is left, much oftener than it says: whoever looks twice sees that it lives."""
    over, began = threading.Event(), threading.Event()

    def beat() -> None:
        for number in count():
            write_claim(store, Claim(holder=OTHER, nonce="other", beat=number, every_s=20.0))
            began.set()
            if over.wait(0.02):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        assert began.wait(20)
        yield
    finally:
        over.set()
        thread.join()
        store.delete(HOLDER_KEY)
