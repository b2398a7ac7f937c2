"""`kdpipe edge status` as lines for a person. Pure: the same status gives the same lines."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.filesize import decimal

WAYS = {"delta": "came as a delta", "packed": "came packed", "whole": "came whole"}
"""How a bundle came, in words."""
_AT_REST = frozenset({"IDLE", "CONFIRMED", "ROLLED_BACK", "FAILED", "INCOMPATIBLE"})


def picture(status: Mapping[str, Any], *, now: float) -> list[str]:
    """`status` is what `LocalDevice.status` gives."""
    facts = {
        "runs": _runs(status),
        "before it": _release(status["previous"]) if status["previous"] else "-",
        "eats": _diet(status["input"]),
        "assigned": _assigned(status),
        "update": _update(status),
        "called": _called(status, now),
        "teacher": _asking(status["asking"]),
        "clock": f"CLOCK_WRONG, signed time is {status['trusted_time']}" if status["clock_wrong"] else "right",
        "agent": status["agent_version"],
    }
    head = " ".join(filter(None, (status["device"], status["state"], status["code"])))
    return [head, *(f"  {name:<10}  {fact}" for name, fact in facts.items())]


def _runs(status: Mapping[str, Any]) -> str:
    digest, incumbent = status["running_digest"], status["incumbent"]
    if not digest:
        return "nothing yet" if incumbent is None else f"nothing; {_release(incumbent)} does not start"
    if incumbent is None or digest != incumbent["digest"]:
        return f"a candidate on trial, sha256 {digest[:12]}" + (f"; {_release(incumbent)} stands by" if incumbent else "")
    came = status["arrival"]
    how = "" if came is None or came["digest"] != digest else f", {_arrival(came)}"
    return f"{_release(incumbent)}{how}"


def _release(installed: Mapping[str, Any]) -> str:
    return f"{installed['student']}-{installed['release']:06d}, sha256 {installed['digest'][:12]}"


def _arrival(came: Mapping[str, Any]) -> str:
    return f"{WAYS.get(came['way'], came['way'])}: {decimal(came['fetched_bytes'])} for a bundle of {decimal(came['bundle_bytes'])}"


def _diet(eaten: Mapping[str, Any] | None) -> str:
    if eaten is None:
        return "-"
    return f"text, its first {eaten['width']:,} bytes" if eaten["kind"] == "text" else f"rows of {eaten['width']:,} numbers"


def _assigned(status: Mapping[str, Any]) -> str:
    wanted = status["wanted"]
    if wanted is None:
        return "-"
    name = wanted["target"].removeprefix("releases/").removesuffix(".kdpb")
    return f"{name}, sha256 {wanted['digest'][:12]}, assignment number {wanted['generation']}"


def _update(status: Mapping[str, Any]) -> str:
    return "; ".join(_news(status)) or "none under way"


def _news(status: Mapping[str, Any]) -> Iterator[str]:
    if status["state"] not in _AT_REST:
        yield status["state"].lower()
    if status["wanted_bytes"]:
        yield f"{decimal(status['downloaded_bytes'])} are here, the whole bundle is {decimal(status['wanted_bytes'])}"
    if status["detail"]:
        yield status["detail"]
    if status["blocked"]:
        yield f"waits: {status['blocked']}"


def _asking(asking: Mapping[str, Any] | None) -> str:
    if asking is None:
        return "never asked: inputs stay on the device"
    ways = [f"asked below {asking['below']:.3g}"] if asking["below"] else []
    ways += [f"{100 * asking['share']:.3g} % of answers held against it"] if asking["share"] else []
    came = f"{asking['asked']:,} asked, {asking['answered']:,} answered, {asking['used']:,} used"
    return "; ".join(filter(None, (", ".join(ways), came, asking["last_failure"])))


def _called(status: Mapping[str, Any], now: float) -> str:
    answered = status["last_sync_unix_s"]
    last = f"{max(0.0, now - answered):.0f} s ago" if answered else "not answered since the agent started"
    waiting = f"; {status['reports_queued']} reports wait to be sent" if status["reports_queued"] else ""
    return f"{last}, every {status['next_sync_s']:.3g} s{waiting}"
