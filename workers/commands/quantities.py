"""Durations, sizes, shares and labels as people write them on a command line. Raises typer.BadParameter, which names the option."""

import re

import typer

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
MOST_DEVICES, MOST_BYTES = 10**9, 10**15
_BYTES = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def seconds(text: str) -> float:
    """ "90", "90s", "10m", "2h", "1d"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time; expected something like 90s, 10m, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


def size(text: str) -> int:
    """ "500k", "64M", "512Mi"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k|M|G|Ki|Mi|Gi)?", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; expected bytes, like 500k, 64M or 512Mi")
    count = float(match[1]) * _BYTES[match[2] or ""]
    if count > MOST_BYTES:
        raise typer.BadParameter(f"{text:.30} is too much; expected at most {shown_bytes(MOST_BYTES)}")
    return int(count)


def waves(text: str) -> tuple[int | float, ...]:
    """ "1,5%,100%": numbers of devices and shares, cumulative."""
    found: list[int | float] = []
    for part in text.replace(" ", "").split(","):
        if re.fullmatch(r"\d+(\.\d+)?%", part):
            found.append(float(part[:-1]) / 100)
        elif re.fullmatch(r"[1-9]\d*", part):
            if len(part) > len(str(MOST_DEVICES)) or int(part) > MOST_DEVICES:
                raise typer.BadParameter(f"a wave of {part:.30} devices; expected at most {MOST_DEVICES:,}")
            found.append(int(part))
        else:
            raise typer.BadParameter(f"{part!r} is no wave; expected numbers of devices and shares, like 1,5%,100%")
    if found[-1] != 1.0 or isinstance(found[-1], int):
        raise typer.BadParameter(
            f"the last wave is {text.rpartition(',')[2]}; expected 100%, so that the rollout ends with everybody it is for"
        )
    return tuple(found)


def share(text: str) -> float:
    """ "5%"."""
    if not re.fullmatch(r"\d+(\.\d+)?%", text):
        raise typer.BadParameter(f"{text!r} is no share; expected something like 5%")
    return float(text[:-1]) / 100


def shown_s(seconds_: float) -> str:
    """ "1 h 05 min", "12 min", "40 s"."""
    whole = round(seconds_)
    if whole < 120:
        return f"{whole} s"
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def shown_bytes(count: float) -> str:
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:,.1f} {unit}"
    return f"{count:,.0f} B"
