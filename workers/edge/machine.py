"""What this machine is and has: hardware class, free disk, free memory."""

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


@functools.cache
def runtime_version() -> str:
    """Of the inference runtime, found without loading it."""
    return importlib.metadata.version("onnxruntime")


def probe(folder: Path, hardware: str) -> Machine:
    return Machine(hardware=hardware, free_disk_bytes=shutil.disk_usage(folder).free, free_memory_bytes=free_memory_bytes())


def free_memory_bytes() -> int:
    """What a process could take now; UNKNOWN_MEMORY_BYTES where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return UNKNOWN_MEMORY_BYTES
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return UNKNOWN_MEMORY_BYTES
