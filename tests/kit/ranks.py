"""Ranks of one training as threads of a test: the collective adds up over a barrier, in place of a process group."""

import threading
from collections.abc import Callable
from typing import Any

import torch

Reduce = Callable[[torch.Tensor], None]
"""Replaces a tensor by its sum over all ranks; returns in all of them or in none."""


def in_ranks(world: int, work: Callable[[int, Reduce], Any]) -> list[Any]:
    """What `work(rank, reduce)` comes to in each rank: its value, or what it raised, which no other rank waits for."""
    barrier, slots = threading.Barrier(world, timeout=60), [torch.zeros(0)] * world
    found: list[Any] = [None] * world

    def reduce_of(rank: int) -> Reduce:
        def reduce(flat: torch.Tensor) -> None:
            slots[rank] = flat.clone()
            barrier.wait()
            total = torch.stack(slots).sum(0)
            barrier.wait()
            flat.copy_(total)

        return reduce

    def run(rank: int) -> None:
        try:
            found[rank] = work(rank, reduce_of(rank))
        except Exception as error:  # noqa: BLE001 - for the test to see
            found[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "it waits for ever"
    return found
