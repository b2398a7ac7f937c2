"""Ray Train's Torch back end, which sets a process group up for two workers or more.

A group of one would have no second member, and its store listens on every address of the machine. An elastic student has one worker today
and several tomorrow, so it is decided at each start.
"""

from typing import Any

from ray.train.torch import TorchConfig

_Torch: Any = TorchConfig().backend_cls


class _UnlessAlone(_Torch):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        if len(worker_group) > 1:
            super().on_start(worker_group, backend_config)


class TorchGroup(TorchConfig):
    """A `torch_config` for any number of workers."""

    @property
    def backend_cls(self) -> Any:
        return _UnlessAlone
