"""What a teacher's process may use of its machine: as many threads as it leases CPUs, in every library that has a pool of its own.

Without this each library takes all cores of the machine, and some teachers on one node slow each other down. To be called once, before
the teacher is imported: OpenMP reads its environment when torch loads it.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, HEAP_BLOCK_BYTES = 256 * 2**20, 32 * 2**20


def thread_settings(threads: int) -> Mapping[str, str]:
    """Environment of a process whose libraries may use so many threads.

    A passive OpenMP thread sleeps where it would spin: the cores it would burn are those that read and write.
    """
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")
    return {
        **dict.fromkeys(pools, str(threads)),
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
    }


def use_threads(threads: int) -> None:
    """Hold this process to so many threads a pool, and let it keep the memory that it asks for again and again."""
    os.environ |= thread_settings(threads)
    pa.set_cpu_count(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    keep_memory()


@contextmanager
def loading() -> Iterator[None]:
    """Import and build without the collector: what torch makes of itself stays, and would be looked at again and again while it grows."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_memory() -> None:
    """Let glibc keep what is freed, and Arrow take its memory from there.

    Activations, decoded rows and shards in the making are mapped, zeroed and unmapped for every batch otherwise.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        pa.set_memory_pool(pa.system_memory_pool())
