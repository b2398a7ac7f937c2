"""A teacher's process takes no more of the machine than it leases."""

import contextlib
import gc
import json
import subprocess
import sys

import pytest

from pipeline.config import TeacherSection
from workers.threads import loading

ASKED = """
import json, sys
from workers.threads import use_threads
assert "torch" not in sys.modules
use_threads(int(sys.argv[1]))
import pyarrow, torch
print(json.dumps([torch.get_num_threads(), pyarrow.cpu_count(), pyarrow.default_memory_pool().backend_name]))
"""


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1.0, 1), (1.5, 2), (3.0, 3)])
def test_a_teacher_has_a_thread_for_every_cpu_it_leases_even_in_part(cpus, threads):
    assert TeacherSection(use="x", cpus=cpus).threads == threads


def test_every_pool_of_a_process_is_held_to_its_threads_and_arrow_to_memory_that_is_kept():
    said = subprocess.run([sys.executable, "-c", ASKED, "1"], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(said.stdout) == [1, 1, "system"]


def test_the_collector_works_again_after_loading_whatever_it_raised():
    with contextlib.suppress(ZeroDivisionError), loading():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
