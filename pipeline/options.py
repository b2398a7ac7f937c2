"""Numbers of the user's for a function that a dict of functions names: a loss, a policy."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pipeline.errors import DESCRIBED, ConfigError

Options = Mapping[str, Mapping[str, float]]
"""Name of a function -> values of its keyword arguments."""


def check_options(options: Options, used: Mapping[str, Callable[..., Any]], *, given: Collection[str], where: str) -> None:
    """Raises ConfigError for options of a function that is not used, or that it does not have. `given` are arguments that are ours."""
    for name, values in options.items():
        if name not in used:
            raise ConfigError(where, f"options of {name!r}", f"those of what is used: {', '.join(sorted(used)) or 'nothing'}", DESCRIBED)
        known = [argument for argument in inspect.signature(used[name]).parameters if argument not in given]
        for option in values:
            if option not in known:
                raise ConfigError(f"{where}.{name}", f"no option {option!r}", f"one of: {', '.join(known) or 'none'}", DESCRIBED)
