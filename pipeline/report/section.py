"""A part of the page: what it says, its figures, and the table behind each."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

SERIES = 6
"""Colours for students; beyond, they come again."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures as text; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Key:
    """One entry of a legend: a colour's class, and what it stands for."""

    colour: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot with its words, and its numbers for whoever cannot or need not see it."""

    title: str
    svg: Markup
    table: Table
    caption: str = ""
    keys: Sequence[Key] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """`missing` says why there is nothing to show (yet)."""

    id: str
    title: str
    says: str
    figures: Sequence[Figure] = field(default_factory=tuple)
    missing: str = ""


def colour_of(place: int) -> str:
    return f"s{place % SERIES}"
