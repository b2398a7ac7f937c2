"""What every test runs under: no usage statistics, one thread a library, reproducible property tests.

Fixtures live beside the tests that use them; fakes live in `tests.kit`.
"""

import os

# Before anything imports them: Ray reports usage, prometheus_client doubles every series with `_created`, and two cores
# shared by BLAS, OpenMP and torch threads are slower than one thread each.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

from hypothesis import HealthCheck, settings  # noqa: E402 - after the environment is set

# Busy machines make single examples slow; a deadline would make that a failure. The number of examples is what a test asks for.
settings.register_profile("kdpipe", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kdpipe")
