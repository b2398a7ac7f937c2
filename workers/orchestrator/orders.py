"""A rollout as an operator asks for it: the message, checked, as an `Order`. What a message leaves out, this server decides."""

import itertools
import re

from packaging.version import InvalidVersion, Version

from pipeline.rollout.comparison import USUAL_MARGINS, Margins
from pipeline.rollout.plan import OnHalt, Plan
from pipeline.rollout.targeting import Reach, Selector
from workers.orchestrator.engine import Order
from workers.orchestrator.reports import MAX_NUMBER, BodyRefusedError, check_name
from workers.rpc import fleet_pb2

MAX_WAVES = 50
MAX_NAMED = 32
"""Labels or hardware classes that one selector, or one device, may have."""
DEFAULT_LOST_S = 300.0
"""A device that loses its network for a minute after the switch is not broken yet, nor is a fleet whose server is slow to answer."""
POPULATION = re.compile(r"[a-z][a-z0-9_-]{0,40}")
ROLLOUT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
LABEL_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,40}")
LABEL = re.compile(rf"{LABEL_NAME.pattern}=[A-Za-z0-9_.-]{{1,64}}")


def read_order(request: fleet_pb2.CreateRolloutRequest) -> Order:
    """Raises BodyRefusedError."""
    check_pattern(ROLLOUT_ID, "rollout_id", request.rollout_id)
    check_pattern(POPULATION, "population", request.population)
    order = Order(
        rollout_id=request.rollout_id,
        population=request.population,
        target=request.target,
        waves=_waves(request),
        soak_s=request.soak_s,
        deadline_s=request.deadline_s,
        lost_after_s=request.lost_after_s or min(DEFAULT_LOST_S, request.deadline_s),
        selector=_selector(request.selector),
        in_flight_first=request.in_flight_first or Plan.in_flight_first,
        in_flight_share=request.in_flight_share or Plan.in_flight_share,
        bytes_per_s=request.bytes_per_s,
        margins=_margins(request.margins) if request.HasField("margins") else USUAL_MARGINS,
        on_halt=OnHalt.REVERT if request.revert_on_halt else OnHalt.HOLD,
    )
    for field, value, least in (
        ("soak_s", order.soak_s, -1.0),
        ("deadline_s", order.deadline_s, 0.0),
        ("lost_after_s", order.lost_after_s, 0.0),
    ):
        if not least < value < 1e8 or value < 0:
            raise BodyRefusedError(field, str(value), "seconds")
    if not 0 <= order.bytes_per_s < 1e15:
        raise BodyRefusedError("bytes_per_s", str(order.bytes_per_s), "bytes a second, 0 for no limit")
    if not 0 < order.in_flight_share <= 1:
        raise BodyRefusedError("in_flight_share", str(order.in_flight_share), "a share above 0, at most 1")
    return order


def check_pattern(pattern: re.Pattern[str], field: str, found: str) -> None:
    """Raises BodyRefusedError."""
    if not pattern.fullmatch(found):
        raise BodyRefusedError(field, f"{found!r:.100}", f"a name like {pattern.pattern}")


def _waves(request: fleet_pb2.CreateRolloutRequest) -> tuple[Reach, ...]:
    waves: list[Reach] = []
    for reach in request.waves:
        waves.append(int(reach.devices) if reach.WhichOneof("reach") == "devices" else float(reach.share))
    shares = [reach for reach in waves if isinstance(reach, float)]
    counts = [reach for reach in waves if isinstance(reach, int)]
    grow = all(low < high for series in (shares, counts) for low, high in itertools.pairwise((0, *series)))  # false for NaN too
    if not 0 < len(waves) <= MAX_WAVES or not grow or not isinstance(waves[-1], float) or waves[-1] != 1.0:
        expected = f"at most {MAX_WAVES} shares above 0 or numbers of devices from 1, each series growing, the last one a share of 1.0"
        raise BodyRefusedError("waves", f"{waves[:10]}", expected)
    return tuple(waves)


def _selector(selector: fleet_pb2.Selector) -> Selector:
    if max(len(selector.labels), len(selector.hardware)) > MAX_NAMED:
        found = f"{len(selector.labels)} labels, {len(selector.hardware)} hardware classes"
        raise BodyRefusedError("selector", found, f"at most {MAX_NAMED} of each")
    for label in selector.labels:
        check_pattern(LABEL, "selector.labels", label)
    for name in selector.hardware:
        check_name("selector.hardware", name)
    if selector.runtime_at_least:
        try:
            Version(selector.runtime_at_least)
        except InvalidVersion as error:
            raise BodyRefusedError("selector.runtime_at_least", f"{selector.runtime_at_least!r:.50}", "a version like 1.23.2") from error
    if selector.free_memory_bytes > MAX_NUMBER:
        raise BodyRefusedError("selector.free_memory_bytes", str(selector.free_memory_bytes), f"at most {MAX_NUMBER}")
    return Selector(
        labels=tuple(sorted(set(selector.labels))),
        hardware=tuple(sorted(set(selector.hardware))),
        runtime_at_least=selector.runtime_at_least,
        free_memory_bytes=selector.free_memory_bytes,
    )


def _margins(margins: fleet_pb2.Margins) -> Margins:
    found = Margins(agreement_drop=margins.agreement_drop, latency_ratio=margins.latency_ratio, confidence_drop=margins.confidence_drop)
    if not (0 <= found.agreement_drop <= 1 and 1 <= found.latency_ratio <= 1000 and 0 <= found.confidence_drop <= 1):
        says = f"latency {found.latency_ratio:g}, agreement {found.agreement_drop:g}, confidence {found.confidence_drop:g}"
        raise BodyRefusedError("margins", says, "latency from 1 to 1000 (times), agreement and confidence from 0 to 1 (drops)")
    return found
