"""What a machine has to give, also inside a container's limit."""

from pathlib import Path

import onnxruntime

from workers.edge.machine import UNKNOWN_MEMORY_BYTES, free_memory_bytes, probe


def machine(folder: Path, *, available_kib: int, group: str = "/") -> tuple[Path, Path]:
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 9999999 kB\nMemAvailable: {available_kib} kB\n")
    (proc / "self" / "cgroup").write_text(f"0::{group}\n")
    (cgroups / group.lstrip("/")).mkdir(parents=True)
    return proc, cgroups


def limit(folder: Path, most: str, held: int, cached: int) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{held}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")


def test_free_memory_is_the_machines_where_nothing_limits_it(tmp_path: Path) -> None:
    assert free_memory_bytes(*machine(tmp_path, available_kib=2048)) == 2048 * 1024


def test_a_units_own_limit_and_those_above_it_count_and_cached_files_are_free(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, available_kib=1 << 30, group="/system.slice/kdpipe-edge.service")
    limit(cgroups / "system.slice" / "kdpipe-edge.service", "1000", 700, 100)
    assert free_memory_bytes(proc, cgroups) == 400
    limit(cgroups / "system.slice", "900", 800, 50)
    assert free_memory_bytes(proc, cgroups) == 150
    limit(cgroups / "system.slice", "max", 800, 50)
    assert free_memory_bytes(proc, cgroups) == 400


def test_where_the_system_does_not_tell_memory_is_not_in_the_way(tmp_path: Path) -> None:
    assert free_memory_bytes(tmp_path / "none", tmp_path / "none") == UNKNOWN_MEMORY_BYTES


def test_this_machine_names_the_runtime_that_would_run_a_model(tmp_path: Path) -> None:
    found = probe(tmp_path, "here")
    assert found.runtime == onnxruntime.__version__
    assert found.free_disk_bytes > 0
    assert found.free_memory_bytes > 0
