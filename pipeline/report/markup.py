"""Elements of HTML and SVG. Whatever is not `Markup` already is escaped, so a name with tags in it stays a name."""

from markupsafe import Markup, escape

Child = str | Markup
Value = str | float | int


def tag(name: str, *children: Child, **attributes: Value | None) -> Markup:
    """`<name attributes>children</name>`. `class_` is class, other underscores are hyphens; None leaves an attribute out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_shown(value))}"' for key, value in attributes.items() if value is not None
    )
    inside = Markup("").join(children)
    return Markup(f"<{name}{given}>") + inside + Markup(f"</{name}>")  # noqa: S704 - names are ours, values were escaped above


def _shown(value: Value) -> str:
    """Coordinates to a tenth: a page of plots is mostly coordinates."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def ends_of(text: str, most: int) -> str:
    """Its beginning and its end: names of classes often begin alike."""
    kept = most - 1
    return text if len(text) <= most else text[: kept - kept // 2] + "…" + text[len(text) - kept // 2 :]


def number(value: float | None) -> str:
    """A figure for people: three or four digits, thousands apart."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def brief(value: float) -> str:
    """A figure for an axis: 1200 is 1.2k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def amount_bytes(size: float) -> str:
    for unit, letter in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {letter}"
    return f"{size:.0f} B"
