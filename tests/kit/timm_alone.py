"""timm where torchvision can't be had: it imports names of it for data sets and transforms, and needs none of them for its nets.

Nothing of the stand-ins is left in `sys.modules`, where transformers would take them for the real ones.
"""

import enum
import importlib
import importlib.machinery
import sys
import types
from typing import Any

from torch import nn

MODULES = ("torchvision", "ops", "ops.misc", "transforms", "transforms.functional", "datasets")


Interpolation = enum.Enum("Interpolation", "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS")
"""Of which timm makes a table at its import."""


class _Names(types.ModuleType):
    """A module in which every name is an empty torch module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


def import_timm() -> None:
    """`import timm` finds it from now on."""
    if "timm" in sys.modules:
        return
    made = {}
    for name in ("torchvision", *(f"torchvision.{module}" for module in MODULES[1:])):
        made[name] = _Names(name)
        made[name].__spec__, made[name].__path__ = importlib.machinery.ModuleSpec(name, None), []
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(made[parent], leaf, made[name])
    made["torchvision.transforms.functional"].__dict__["InterpolationMode"] = Interpolation
    sys.modules.update(made)
    try:
        importlib.import_module("timm")
    finally:
        for name in made:
            del sys.modules[name]
