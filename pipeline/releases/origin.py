"""Where a release came from, as its own bundle says: what it learned from, what it was made of, and why it was let through.

Under the same digest as the model, so it holds wherever the bundle is, without the run's folder. Devices do not act on it, and each of
them fetches it with every release: so it is short.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.errors import ReleaseError


class OriginInvalidError(ReleaseError):
    """A bundle's account of where it came from does not read."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"bundle origin: {self.found}; expected generation, parent, log, windows, rows, config and gate; publish it again"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The teacher's fingerprint is the manifest's own."""

    generation: int
    parent: str | None
    """Digest of the bundle that training started from."""
    log: str
    """Identity of the label log."""
    first_window: int
    stop_window: int
    """It may have learned from the windows of the log from the first on, up to but without this one."""
    rows: int
    """Labels seen in training, replays included."""
    config: Mapping[str, Any]
    """The student's section of the run file, every default filled in."""
    gate: Mapping[str, Any]
    """What let it through: `gate_evidence` of the report."""

    def __post_init__(self) -> None:
        counts = (self.generation, self.first_window, self.stop_window, self.rows)
        if any(type(count) is not int or count < 0 for count in counts):
            raise OriginInvalidError(f"numbers {counts!r:.80}")
        texts = (self.log, *((self.parent,) if self.parent is not None else ()))
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(tree, dict) for tree in (self.config, self.gate)):
            raise OriginInvalidError("values of wrong types")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, tree: object) -> "Origin":
        """Raises OriginInvalidError."""
        known = {field.name for field in fields(cls)}
        if not isinstance(tree, dict) or set(tree) != known:
            found = sorted(tree) if isinstance(tree, dict) else type(tree).__name__
            raise OriginInvalidError(f"{found!r:.120}")
        return cls(**tree)


def gate_evidence(report: Mapping[str, Any]) -> dict[str, Any]:
    """A gate's report as a bundle carries it: verdict and lines, figures to four digits, and the SHA-256 of the whole as JSON with sorted
    keys, which stays with the run."""
    digest = hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()
    short = {key: report[key] for key in ("ships", "basis", "summary", "version") if key in report}
    return {**short, "lines": [_rounded(line) for line in report.get("lines", ())], "report_sha256": digest}


def _rounded(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in line.items()}
