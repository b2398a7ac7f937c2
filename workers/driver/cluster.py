"""Ray for a run: started on this machine when it is first needed, or joined where `ray.address` or RAY_ADDRESS names a cluster.

A local Ray shares the driver's fate (the kernel ends it when the driver dies), listens on loopback only and asks for a token
that lies in the run's keys. Nothing is started for a run that has nothing to label or train. A run that is told to stop does not wait
for Ray to start.
"""

import contextlib
import ipaddress
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.config import RaySection
from pipeline.files import create_exclusive, make_private_folder
from pipeline.students.scaling import TRAINER
from workers.driver.stopping import Stop
from workers.local_ray import start_local_ray
from workers.privacy import OPT_OUT, opt_out
from workers.ray_address import RayUnavailableError, require_answer

LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0 before Ray is imported, Ray takes this machine's loopback address for its own, as it does where it supports no clusters. Else
it makes an outward address even of a loopback one that it is given, and its servers listen on all."""


@contextlib.contextmanager
def _translated(address: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise RayUnavailableError(address or "this machine", str(error)) from error


def _require_loopback(host: str) -> None:
    """Raises RayUnavailableError where the Ray that was just started speaks to the outside."""
    if not ipaddress.ip_address(host).is_loopback:
        raise RayUnavailableError("this machine", f"it listens on {host}, as Ray was imported before a run set {LOOPBACK_ONLY}=0")


class Cluster:
    """The Ray connection of one run. `ensure` before use, `close` at the end.

    A local one offers room for as many elastic trainer workers as `trainers` says of its CPUs.
    """

    def __init__(self, section: RaySection, *, keys: Path, stop: Stop, trainers: Callable[[int], int] = lambda _: 0) -> None:
        self._section, self._keys, self._stop, self._trainers = section, keys, stop, trainers
        self._joined = False

    def ensure(self) -> None:
        """Start or join Ray, once; in the main thread. Raises RayUnavailableError, and KeyboardInterrupt when the run is told to stop."""
        if self._joined:
            return
        address = self._section.address or os.environ.get("RAY_ADDRESS")
        opt_out(os.environ)
        os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
        if address:
            require_answer(address)
        else:
            self._choose_token()
            os.environ[LOOPBACK_ONLY] = "0"
        with self._stop.at_once():
            self._init(address)
            self._joined = True

    def _init(self, address: str | None) -> None:
        import ray

        # Ray puts the driver's working folder in front of its workers' paths: there, a user's `workers/` would hide ours.
        with contextlib.chdir(make_private_folder(self._keys)), _translated(address):
            if address:
                ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, runtime_env={"env_vars": dict(OPT_OUT)})
            else:
                cpus = self._section.cpus or os.cpu_count() or 1
                trainers = self._trainers(cpus)
                start_local_ray(num_cpus=cpus, resources={TRAINER: trainers} if trainers else None, logging_level=logging.WARNING)
                _require_loopback(ray.util.get_node_ip_address())

    def close(self) -> None:
        """Leave the cluster; a local one ends with it."""
        if self._joined:
            import ray

            ray.shutdown()
            self._joined = False

    def _choose_token(self) -> None:
        """Token authentication for the local cluster, by a token of this run alone (Ray would take one from the home folder)."""
        path = make_private_folder(self._keys) / "ray_token"
        create_exclusive(path, secrets.token_hex(32).encode())
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
