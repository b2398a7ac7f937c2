"""A running average of a student's weights: what ships is smoother than the last step. Polyak, Juditsky 1992; as EMA e.g. in TensorFlow.

    average <- d average + (1 - d) weights,   d = min(decay, (1 + n) / (10 + n)) after n updates

so that it does not remember where training began. Buffers of floats are averaged with the weights, so that a norm's running statistics are
of the weights they ship with: those of the last step belong to other ones. `torch.optim.swa_utils` does so with `use_buffers=True`, its
advice for this average; its default copies buffers and asks for another pass over the data (`update_bn`). Counts are copied. A plain dict
of tensors, for the checkpoint.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """Of one module's state dict, float32 whatever the module computes in."""

    def __init__(self, module: nn.Module, decay: float, values: Mapping[str, Tensor] | None = None) -> None:
        self._module, self._decay = module, decay
        own = module.state_dict()
        self.values = {name: value.detach().to(own[name].device, copy=True) for name, value in (values or own).items()}

    def update(self, updates: int) -> None:
        """Take the module's weights in, after so many updates before."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        with torch.no_grad():
            for name, value in self._module.state_dict().items():
                if value.is_floating_point():
                    self.values[name].lerp_(value, 1 - decay)
                else:
                    self.values[name].copy_(value)

    def copy_to_module(self) -> None:
        """The average takes the place of the weights."""
        self._module.load_state_dict(self.values)
