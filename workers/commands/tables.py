"""The console of tables: as wide as the terminal, and as wide as it takes where no terminal reads."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 10_000


def console() -> "Console":
    """Nothing is folded for a script; columns of a table say `overflow="fold"`, so that a person sees paths and ids whole."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
