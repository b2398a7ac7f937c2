"""A rollout as a person sees it: waves with bars, the tests against their bounds, comparisons, and one sentence why."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.rollout.rollout import WavePhase
from workers.commands.quantities import shown_bytes, shown_s
from workers.edge.picture import WAYS
from workers.orchestrator.views import ArrivalView, ComparisonView, RolloutView, WaveView

STYLES = {"completed": "green", "halted": "bold red", "aborted": "red", "reverted": "red", "reverting": "yellow", "running": "cyan"}
FINDINGS = {"no_worse": "no worse", "worse": "WORSE", "too_few": "too few to compare", "missing": "MISSING"}
BAR = 10


def picture(view: RolloutView, *, now: float) -> RenderableType:
    """All of it; the waves fit 80 columns."""
    parts: list[RenderableType] = [_head(view, now), _waves(view)]
    if view.install_tests:
        parts.append(_install_tests(view))
    if view.comparisons:
        parts.append(_comparisons(view))
    if view.arrivals:
        parts.append(_arrivals(view.arrivals))
    parts.append(Text(view.reason, style=STYLES.get(view.state, "")))
    return Group(*parts)


def line(view: RolloutView) -> str:
    """One line, for a pipe."""
    paused = ", paused" if view.paused else ""
    phase = "" if view.phase is WavePhase.NONE else f" {view.phase.value}"
    where = f"wave {view.wave} of {view.waves}{phase}" if view.wave else "no wave yet"
    broken = f", {view.failed} failed, {view.lost} lost" if view.failed or view.lost else ""
    return (
        f"{view.rollout_id}: {view.state.value}{paused}, {where}, {view.confirmed:,} of {view.devices:,} confirmed, "
        f"{view.offered:,} in flight{broken}. {view.reason}"
    )


def _arrivals(arrivals: Sequence[ArrivalView]) -> Text:
    """How the release came to those that run it."""
    ways = [f"{each.devices:,} {WAYS.get(each.way, each.way)} ({shown_bytes(each.fetched_bytes)})" for each in arrivals]
    return Text(f"of devices that run it, {', '.join(ways)}")


def _head(view: RolloutView, now: float) -> Text:
    head = Text(f"{view.rollout_id}  {view.target} -> {view.population}  ")
    head.append(view.state.value + (", paused" if view.paused else ""), style=STYLES.get(view.state, ""))
    left_s = view.soaks_until_unix_s - now
    if left_s > 0:
        head.append(f"  soaking, {shown_s(left_s)} left")
    return head


def _waves(view: RolloutView) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("wave", "reach"):
        table.add_column(column)
    table.add_column("", width=BAR)
    for column in ("confirmed", "in flight", "waiting", "failed", "lost", "unfit"):
        table.add_column(column, justify="right")
    for wave in view.wave_views:
        mark = ">" if wave.wave == view.wave and not view.has_ended else " "
        broken = f"{wave.failed:,}", f"{wave.lost:,}", f"{wave.incompatible:,}"
        counts = f"{wave.confirmed:,} of {wave.devices:,}", f"{wave.offered:,}", f"{wave.pending + wave.withdrawn:,}"
        table.add_row(f"{mark} {wave.wave}", wave.reach, _bar(wave), *counts, *broken)
    return table


def _bar(wave: WaveView) -> RenderableType:
    done = wave.confirmed + wave.failed + wave.lost + wave.incompatible
    style = "red" if wave.failed or wave.lost else "green"
    return ProgressBar(total=max(wave.devices, 1), completed=done, width=BAR, complete_style=style, finished_style=style)


def _install_tests(view: RolloutView) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("installs on", "confirmed", "failed", "evidence", "halts at", ""):
        table.add_column(column, justify="left" if column in ("installs on", "") else "right")
    for test in view.install_tests:
        full = max(0.0, min(1.0, test.evidence_nats / test.bound_nats)) if test.bound_nats > 0 else 1.0
        bar = ProgressBar(total=1.0, completed=full, width=BAR, complete_style="red", finished_style="bold red")
        numbers = f"{test.confirmed:,}", f"{test.failed:,}", f"{test.evidence_nats:+.2f} nats", f"{test.bound_nats:.2f}"
        table.add_row(test.hardware, *numbers, bar)
    return table


def _comparisons(view: RolloutView) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("last gate", "", "of the wave", "not yet offered", "p", "halts at"):
        table.add_column(column, justify="left" if column in ("last gate", "") else "right")
    for found in view.comparisons:
        table.add_row(
            found.metric, FINDINGS.get(found.finding, found.finding), *_groups(found), f"{found.p_value:.2g}", f"{found.alpha:.2g}"
        )
    return table


def _groups(found: ComparisonView) -> tuple[str, str]:
    unit = " ms" if found.metric == "latency" else ""
    return _group(found.wave_median, found.wave_devices, unit), _group(found.control_median, found.control_devices, unit)


def _group(median: float, devices: int, unit: str) -> str:
    return f"{median:.4g}{unit} ({devices:,} devices)" if devices else "nobody told"
