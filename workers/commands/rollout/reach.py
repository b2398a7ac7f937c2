"""Whom a rollout would reach, before it starts: nobody is a slip that waits for ever; a release that all run already is worth a line."""

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workers.orchestrator.client import Operator
    from workers.orchestrator.views import DeviceView, PlanView, RolloutView
    from workers.orchestrator.wishes import Wish


def reached(operator: "Operator", wish: "Wish", *, for_nobody: bool) -> "PlanView":
    """The dry run of a wish. Raises ConfigError where it reaches nobody and that is not what was asked for."""
    found = operator.plan(wish)
    if for_nobody or any(wave.devices for wave in found.waves):
        return found
    from pipeline.errors import ConfigError

    if found.left_out:
        why = ", ".join(f"{counted(count)} {reason}" for reason, count in found.left_out.items())
        expected = f"options that a device of {wish.population} meets"
        raise ConfigError(wish.rollout_id, f"reaches nobody ({why})", expected, "--for-nobody lets it wait for one")
    known = Counter(device.population for device in operator.get_fleet().devices if not device.is_revoked)
    names = ", ".join(f"{name} ({counted(count)})" for name, count in sorted(known.items())) or "none has any yet"
    expected = f"a population with devices: {names}"
    raise ConfigError("--population", f"{wish.population!r:.60} has no device", expected, "--for-nobody lets it wait for one")


def refuse_conflict(operator: "Operator", wish: "Wish") -> None:
    """Raises OrchestratorRefusedError where another rollout holds the population: before one is created, which would be left as a draft."""
    from pipeline.rollout.rollout import LIVE
    from workers.orchestrator.client import OrchestratorRefusedError

    for other in operator.get_fleet().rollouts:
        if other.population == wish.population and other.rollout_id != wish.rollout_id and other.state in LIVE:
            found = f"rollout {wish.rollout_id}: not started, as {other.rollout_id} of population {other.population} is {other.state.value}"
            expected = f"one at a time; wait for it, or `kdpipe rollout abort FLEET {other.rollout_id} keep|revert`"
            raise OrchestratorRefusedError("FAILED_PRECONDITION", f"{found}; expected {expected}")


def refuse_ended(view: "RolloutView") -> None:
    """Raises ConfigError for a rollout that ended before it was asked for again: its approval started nothing."""
    from pipeline.errors import ConfigError
    from pipeline.rollout.rollout import TERMINAL

    if view.state in TERMINAL:
        expected = "a rollout that has not ended"
        raise ConfigError(
            view.rollout_id, f"it is {view.state.value} already, nothing was started", expected, "--id gives a new one a name"
        )


def remark(operator: "Operator", wish: "Wish", found: "PlanView") -> str:
    """One line where devices run this release already, or a newer one; empty where not, or where a wave has more devices than it names."""
    names = {device for wave in found.waves for device in wave.device_ids}
    if not names or len(names) < sum(wave.devices for wave in found.waves):
        return ""
    return compared([device for device in operator.get_fleet().devices if device.device_id in names], wish.target)


def compared(devices: "Iterable[DeviceView]", target: str) -> str:
    """What devices run, as far as it was told to them, held against `target`."""
    runs = [device.assigned_target if device.running_digest == device.assigned_digest else "" for device in devices]
    same, newer = runs.count(target), sum(_is_newer(run, target) for run in runs)
    if runs and same == len(runs):
        return f"All {counted(same)} run {_stem(target)} already." if same > 1 else f"The one device runs {_stem(target)} already."
    return f"{_stem(target)} is older than what {newer:,} of {counted(len(runs))} run." if newer else ""


def counted(devices: int) -> str:
    return f"{devices:,} device{'' if devices == 1 else 's'}"


def _stem(target: str) -> str:
    return target.removeprefix("releases/").removesuffix(".kdpb")


def _is_newer(run: str, target: str) -> bool:
    """By the number that a release's name ends with; of other names nothing is known."""
    (name, _, number), (wanted, _, wanted_number) = _stem(run).rpartition("-"), _stem(target).rpartition("-")
    return name == wanted and number.isdecimal() and wanted_number.isdecimal() and int(number) > int(wanted_number)
