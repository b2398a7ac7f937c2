"""What this machine is and has: hardware class, runtime, free disk, free memory."""

import contextlib
import functools
import importlib.metadata
import platform
import shutil
from pathlib import Path

from pipeline.rollout.device import Machine

UNKNOWN_MEMORY_BYTES = 1 << 62
"""Where the system does not tell, memory never stands in the way."""


def hardware_class() -> str:
    """System and processor, as releases name them: "linux-x86_64", "linux-aarch64"."""
    return f"{platform.system()}-{platform.machine()}".lower()


def probe(folder: Path, hardware: str) -> Machine:
    return Machine(
        hardware=hardware,
        runtime=runtime_version(),
        free_disk_bytes=shutil.disk_usage(folder).free,
        free_memory_bytes=free_memory_bytes(),
    )


@functools.cache
def runtime_version() -> str:
    """Of onnxruntime, without importing it: only the model worker does that."""
    return importlib.metadata.version("onnxruntime")


def free_memory_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """What can be had without swapping: of the machine, and of this process's control group and those above it.

    UNKNOWN_MEMORY_BYTES where the system does not tell.
    """
    free = [UNKNOWN_MEMORY_BYTES]
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        own = next((line[3:] for line in (proc / "self/cgroup").read_text().splitlines() if line.startswith("0::/")), "/")
        group = cgroups / own.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(cgroups):
                free.append(_free_in_group(folder))
    return max(0, min(free))


def _free_in_group(folder: Path) -> int:
    """Its limit less what it holds; files that are only cached count as free."""
    try:
        limit = int((folder / "memory.max").read_text())
        held = int((folder / "memory.current").read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit - held + int(facts.get("inactive_file", 0))
    except (OSError, ValueError):  # no such control, or "max": no limit
        return UNKNOWN_MEMORY_BYTES
