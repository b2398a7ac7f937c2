"""Nothing leaves a machine that its owner did not send: the reports that packages make to their makers are off.

onnxruntime (1.29 and newer) writes a device id under ~/.cache and reports models and sessions, unless told otherwise before it
is imported; Ray reports usage. Every process of ours calls `opt_out` first, and gives `OPT_OUT` to processes that others start for
it (Ray's workers). Whoever wants to report sets the variable themselves: what is set already stays.
"""

from collections.abc import Mapping, MutableMapping
from types import MappingProxyType

OPT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "ORT_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)
"""Environment variable -> value."""


def opt_out(environment: MutableMapping[str, str]) -> None:
    """Set what is not set yet. Call it with `os.environ` before anything imports onnxruntime or ray."""
    for name, value in OPT_OUT.items():
        environment.setdefault(name, value)
