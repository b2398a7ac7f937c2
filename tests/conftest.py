"""What every test runs under: no usage statistics, one thread a library, reproducible property tests, one Ray at a time.

Fixtures live beside the tests that use them; fakes live in `tests.kit`.
"""

import os
from collections.abc import Sequence

from workers.privacy import opt_out

# Before anything imports them: onnxruntime and Ray report usage, prometheus_client doubles every series with `_created`, and two cores
# shared by BLAS, OpenMP and torch threads are slower than one thread each.
opt_out(os.environ)
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

import pytest  # noqa: E402 - after the environment is set
from hypothesis import HealthCheck, settings  # noqa: E402 - after the environment is set

# Busy machines make single examples slow; a deadline would make that a failure. The number of examples is what a test asks for.
settings.register_profile("kdpipe", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kdpipe")


def pytest_itemcollected(item: pytest.Item) -> None:
    """For `--dist loadgroup`: tests of one file stay on one worker, and all that start Ray share one, so that no two run at once.

    Here and not when all are collected: by then the distributor has read the marks.
    """
    starts_ray = item.get_closest_marker("ray") is not None or hasattr(getattr(item, "module", None), "ray")
    item.add_marker(pytest.mark.xdist_group("ray" if starts_ray else str(item.path)))
    if starts_ray and item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(600))  # a cluster and its workers take a minute to start on a busy machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The groups that take longest come first; a worker that is free late has only short ones left."""
    items.sort(key=_order)


def _order(item: pytest.Item) -> tuple[bool, int]:
    folders: Sequence[str] = ("e2e", "fault")
    here = next((place for place, folder in enumerate(folders) if folder in item.path.parts), len(folders))
    marker = item.get_closest_marker("xdist_group")
    return marker is None or marker.args != ("ray",), here
