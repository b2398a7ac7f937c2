"""What a rollout is to do: a value that is fixed when it is created, written into the first event of its log and read back from there.

A wave's reach is a whole number of devices (`int`) or a share of those that the rollout is for (`float`), both counted from the
first device on. A version 1 log was written before selectors, bandwidth caps and comparisons; its plan has none of them.
"""

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.rollout.comparison import USUAL_MARGINS, Margins
from pipeline.rollout.targeting import EVERY_DEVICE, Reach, Selector

RECORD_VERSION = 2
KNOWN_VERSIONS = (1, RECORD_VERSION)


class OnHalt(enum.StrEnum):
    """What happens by itself once a rollout halted."""

    HOLD = "hold"
    """Nothing: devices that confirmed the release keep it until an operator decides."""
    REVERT = "revert"
    """Devices go back to what they ran before."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a rollout is to do; fixed when it is created."""

    rollout_id: str
    population: str
    target: str
    """TUF target path of the release."""
    digest: str
    """Hex SHA-256 of its bundle."""
    salt: str
    waves: tuple[Reach, ...]
    soak_s: float
    deadline_s: float
    """Longest time from a device's joining, or its offer, to its verdict."""
    lost_after_s: float
    selector: Selector = EVERY_DEVICE
    hardware: tuple[str, ...] = ()
    """Hardware classes the release allows; none named is all."""
    no_way_back: tuple[str, ...] = ()
    """Target paths below this release's security floor: a device that ran it never goes back to those."""
    in_flight_first: int = 10
    in_flight_share: float = 0.05
    """Share of the population that may be in flight from the second wave on, and never fewer than `in_flight_first`."""
    bundle_bytes: int = 0
    bytes_per_s: float = 0.0
    """Most that offers may ask of the network, each counted as a whole bundle; 0 is no limit."""
    margins: Margins = USUAL_MARGINS
    on_halt: OnHalt = OnHalt.HOLD


def plan_facts(plan: Plan) -> dict[str, Any]:
    """What the first event of a log says."""
    return {"version": RECORD_VERSION, "plan": asdict(plan)}


def read_plan(facts: Mapping[str, Any]) -> Plan:
    """The plan in the first event of a log. Raises ValueError for a version or a field that this reader does not know."""
    if facts.get("version") not in KNOWN_VERSIONS:
        raise ValueError(f"version {facts.get('version')!r}")
    values = dict(facts["plan"])
    unknown = set(values) - {field.name for field in fields(Plan)}
    if unknown:
        raise ValueError(f"version {facts['version']} with {', '.join(sorted(unknown))}")
    for name in ("waves", "hardware", "no_way_back"):
        values[name] = tuple(values[name])
    if "selector" in values:
        values["selector"] = Selector.from_facts(values["selector"])
    if "margins" in values:
        values["margins"] = Margins(**values["margins"])
    if "on_halt" in values:
        values["on_halt"] = OnHalt(values["on_halt"])
    return Plan(**values)
