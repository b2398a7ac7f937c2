"""Ray Train's Torch back end for a student with one worker: none.

Torch's process group would have no second member there, and its store listens on every address of the machine.
"""

from typing import Any

from ray.train.backend import Backend
from ray.train.torch import TorchConfig


class LoneWorker(TorchConfig):
    """A `torch_config` that sets no process group up."""

    @property
    def backend_cls(self) -> Any:
        return Backend
