"""Tables that are printed: over a pipe as wide as they need, on a narrow terminal folded. No name is ever cut: it is there to be copied."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_COLUMNS = 10_000


def table_console() -> "Console":
    """As wide as the terminal; where nobody looks at a screen, wider than any table."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)


def folding_table(*columns: str, name_width: int) -> "Table":
    """A table whose first column, `name_width` wide, stays whole; the others are at least as wide as their heads, and fold."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", min_width=max(len(column), 0 if number else name_width))
    return table
