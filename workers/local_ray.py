"""A Ray of this process's own, on this machine: started, and started afresh where it did not come up.

On a machine with much to do Ray gives up on itself after 30 s, and leaves what it had started running. That is ended here before the next
try. Left to others: what the cluster is for, and who may speak to it (`workers.driver.cluster`).
"""

import logging
from collections.abc import Callable
from typing import Any

import psutil

logger = logging.getLogger(__name__)

STARTS = 3
END_WITHIN_S = 10.0


def start_local_ray(init: Callable[..., Any] | None = None, **options: Any) -> None:
    """`ray.init(address="local", **options)`, up to three times. Raises what the last one raises."""
    if init is None:
        import ray

        init = ray.init
    before = set(_of_ray())
    for start in range(1, STARTS + 1):
        try:
            init(address="local", include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1", **options)
            return
        except Exception as error:
            _end(set(_of_ray()) - before)
            if start == STARTS:
                raise
            logger.warning("Ray did not start; it is started again", extra={"start": start, "error": str(error)})


def _of_ray() -> list[psutil.Process]:
    """Processes below this one that belong to a session of Ray."""
    return [process for process in psutil.Process().children(recursive=True) if _names_a_session(process)]


def _names_a_session(process: psutil.Process) -> bool:
    try:
        return any("/session_" in argument for argument in process.cmdline())
    except psutil.Error:
        return False  # it has ended


def _end(processes: set[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=END_WITHIN_S)
