"""What a benchmark finds: comparisons, printed for people and, with --json, a JSON object a line."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pipeline.distill.paired import mean_interval_95


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure, ours, against another; None where there is nothing to compare with."""

    name: str
    case: str
    figure: float
    unit: str
    against: str | None
    against_figure: float | None
    ratio: float | None
    """Ours over theirs."""
    n: int
    """Runs in turn; figures are their medians unless the case says otherwise."""
    spread: tuple[float, float] | None
    """Least and greatest ratio over the runs."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    def __str__(self) -> str:
        ours = f"{self.name}: {self.case}: {self.figure:.4g} {self.unit}"
        if self.against is None or self.against_figure is None:
            return f"{ours} (n {self.n})"
        spread = f", {self.spread[0]:.3f} to {self.spread[1]:.3f}" if self.spread else ""
        ratio = f", ratio {self.ratio:.3f}{spread}" if self.ratio is not None else ""
        return f"{ours}; {self.against}: {self.against_figure:.4g}{ratio} (n {self.n})"


def compare(*, name: str, case: str, unit: str, ours: Sequence[float], against: str, theirs: Sequence[float]) -> Comparison:
    """Paired runs of ours and theirs: medians, and the median and the spread of the ratios run by run."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True) if other]
    return Comparison(
        name=name,
        case=case,
        figure=statistics.median(ours),
        unit=unit,
        against=against,
        against_figure=statistics.median(theirs),
        ratio=statistics.median(ratios) if ratios else None,
        n=len(ours),
        spread=(min(ratios), max(ratios)) if ratios else None,
    )


def points(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Mean of the paired differences of two shares, in points, and its 95 % interval, for a table."""
    mean, low, high = (100 * value for value in mean_interval_95(np.array(ours) - np.array(theirs)))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})" if len(ours) > 1 else f"{mean:+.1f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table for a page; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def alone(*, name: str, case: str, unit: str, figure: float, n: int) -> Comparison:
    """A figure with nothing to hold it against."""
    return Comparison(name=name, case=case, figure=figure, unit=unit, against=None, against_figure=None, ratio=None, n=n, spread=None)


def paired(*, name: str, case: str, unit: str, ours: Sequence[float], theirs: Sequence[float]) -> list[Comparison]:
    """Mean of the differences run by run and, of two runs or more, its 95 % interval (Student's t)."""
    mean, low, high = mean_interval_95(np.array(ours) - np.array(theirs))
    interval = (("95 % interval, low", low), ("95 % interval, high", high)) if len(ours) > 1 else ()
    return [
        alone(name=name, case=f"{case}, paired, {says}", unit=unit, figure=figure, n=len(ours))
        for says, figure in (("mean", mean), *interval)
    ]
