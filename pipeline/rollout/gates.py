"""Why a wave stops, or that it may pass: each function returns the reason for a person, or None.

Gates run in every live state, paused or not, so that a bad release stops itself while nobody looks. A wave is never declared
good early: it passes when its soak is over, every member has a verdict, and nothing here has a reason.
"""

from collections.abc import Sequence

from pipeline.rollout.comparison import ALPHA_COMPARISONS, Comparison, Finding, Metric, compare_all
from pipeline.rollout.evidence import Evidence
from pipeline.rollout.rollout import BROKEN, Member, Rollout, Stage
from pipeline.rollout.sequential import OTHERS, POOLED, SMALLEST_VERDICT
from pipeline.rollout.waves import not_yet_offered

INCOMPATIBLE_MOST = 0.2
"""Share of a wave that may refuse a release as incompatible; a plan that selects devices keeps them out from the start."""
CONCURRENT_S = 600.0
"""What a device told longer ago is not of the time that is compared."""


def too_many_failures(rollout: Rollout) -> str | None:
    """The sequential test of a hardware class, or of several, has crossed its bound."""
    halted = rollout.halted_test()
    if halted is None:
        return None
    hardware, test = halted
    where = {POOLED: "all hardware classes together", OTHERS: "the other hardware classes together"}.get(hardware, hardware)
    return (
        f"wave {rollout.wave}: {test.failed} of {test.failed + test.confirmed} installs on {where} failed, the release is to blame "
        f"({test.evidence_nats:.1f} nats, bound {test.bound_nats:.1f}){_codes(rollout)}"
    )


def small_wave_failed(rollout: Rollout) -> str | None:
    """A wave too small for a verdict passes on all-confirmed only, so its first failure ends it."""
    wave = [member for member in _wave(rollout) if member.stage is not Stage.INCOMPATIBLE]
    if len(wave) >= SMALLEST_VERDICT:
        return None
    broken = sum(1 for member in wave if member.stage in BROKEN and not member.acknowledged)
    if not broken:
        return None
    return (
        f"wave {rollout.wave}: {broken} of {len(wave)} devices failed, and fewer than {SMALLEST_VERDICT} are too few for a verdict: "
        f"only all confirmed passes{_codes(rollout)}"
    )


def deadline_missed(rollout: Rollout, evidence: Evidence, *, now: float) -> str | None:
    """Members without a verdict by their deadline: silent ones are no data, and no data is no success."""
    latest_s = rollout.clock_s(now) - rollout.plan.deadline_s
    silent = stuck = 0
    for device, member in rollout.members.items():
        if member.stage is Stage.OFFERED and member.offered_clock_s < latest_s:
            stuck += 1
        elif member.stage is Stage.PENDING and member.joined_clock_s < latest_s and not evidence.is_present(device, now):
            silent += 1
    if not silent and not stuck:
        return None
    return (
        f"wave {rollout.wave}: no verdict within {rollout.plan.deadline_s:g} s from {silent + stuck} of {len(_wave(rollout))} devices "
        f"({silent} never called, {stuck} were offered the release and did not finish)"
    )


def too_many_incompatible(rollout: Rollout) -> str | None:
    """Too many members refused the release as incompatible: it is not for this population, and those that refuse prove nothing."""
    wave = _wave(rollout)
    refused = sum(1 for member in wave if member.stage is Stage.INCOMPATIBLE and not member.acknowledged)
    if refused <= INCOMPATIBLE_MOST * len(wave):
        return None
    confirmed = sum(1 for member in wave if member.stage is Stage.CONFIRMED)
    return (
        f"wave {rollout.wave}: {refused} of {len(wave)} devices say the release is incompatible, {confirmed} confirmed it; "
        f"expected at most {INCOMPATIBLE_MOST:.0%}{_codes(rollout, Stage.INCOMPATIBLE)}"
    )


def compared(rollout: Rollout, evidence: Evidence, *, now: float) -> tuple[Comparison, ...]:
    """The wave's devices that confirmed the release, against those of the same kind that were not yet offered it."""
    plan = rollout.plan
    present = {device: facts for device, facts in evidence.devices.items() if now - facts.last_seen_s <= CONCURRENT_S}
    joined = {device: member for device, member in rollout.members.items() if member.wave == rollout.wave and device in present}
    confirmed = [present[device] for device, member in joined.items() if member.stage is Stage.CONFIRMED]
    wave = [facts for facts in confirmed if facts.running_digest == plan.digest]
    control = [facts for device, facts in not_yet_offered(rollout, evidence).items() if device in present]
    left = len(plan.waves) - rollout.wave + 1
    alpha = (ALPHA_COMPARISONS - rollout.alpha_compared) / (left + 1) / len(Metric)
    return compare_all(wave, control, plan.margins, alpha=alpha)


def answers_worse(rollout: Rollout, comparisons: Sequence[Comparison]) -> str | None:
    """Devices of the wave answer worse, slower or less surely than those that were not yet offered the release."""
    worse = [found.says for found in comparisons if found.finding is Finding.WORSE and found.metric not in rollout.accepted]
    return f"wave {rollout.wave}: worse than devices not yet offered it, {'; '.join(worse)}" if worse else None


def data_missing(rollout: Rollout, comparisons: Sequence[Comparison]) -> str | None:
    """Devices of the wave do not tell what the others tell: no data is no success."""
    missing = [found.says for found in comparisons if found.finding is Finding.MISSING and found.metric not in rollout.accepted]
    return f"wave {rollout.wave}: devices of the wave do not tell how they answer, others do; {'; '.join(missing)}" if missing else None


def passed(rollout: Rollout, comparisons: Sequence[Comparison]) -> str:
    """What a wave that passed rests on; a small one says that it proves little."""
    wave = _wave(rollout)
    confirmed = sum(1 for member in wave if member.stage is Stage.CONFIRMED)
    says = f"wave {rollout.wave} passed: {confirmed} of {len(wave)} devices confirmed"
    if confirmed < SMALLEST_VERDICT:
        says += f"; fewer than {SMALLEST_VERDICT} installs are too few for a verdict, so this rests on none having failed"
    judged = [found.says for found in comparisons if found.finding is Finding.NO_WORSE]
    unjudged = [str(found.metric) for found in comparisons if found.finding is Finding.TOO_FEW]
    accepted = [str(found.metric) for found in comparisons if found.finding in (Finding.WORSE, Finding.MISSING)]
    says += f"; {'; '.join(judged)}" if judged else ""
    says += f"; too few devices on one side to compare {', '.join(unjudged)}" if unjudged else ""
    return says + (f"; {', '.join(accepted)} accepted by the operator" if accepted else "")


def _wave(rollout: Rollout) -> list[Member]:
    return [member for member in rollout.members.values() if member.wave == rollout.wave and member.stage is not Stage.LEFT]


def _codes(rollout: Rollout, *stages: Stage) -> str:
    codes = sorted({member.failure_code for member in _wave(rollout) if member.stage in (stages or BROKEN) and member.failure_code})
    return f": {', '.join(codes[:5])}" if codes else ""
