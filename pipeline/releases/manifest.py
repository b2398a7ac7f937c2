"""What a bundle says about itself, and how it is read back.

A manifest is a frozen value; on disk it is JSON with a version. A reader refuses versions and keys it does not know, and
values out of range, because a device acts on them. Nothing here touches a file.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard, TypeVar

from pipeline.errors import ReleaseError
from pipeline.releases.origin import Origin

BUNDLE_VERSION = 2
READABLE = frozenset({1, BUNDLE_VERSION})
"""1 says nothing of threshold, runtime and origin; devices hold slots of it."""
MAX_CLASSES = 4096
MAX_INPUT_WIDTH = 1 << 24

InputKind = Literal["text", "floats"]
P = TypeVar("P")


class BundleVersionError(ReleaseError):
    """The bundle was made by a newer kdpipe than the one that reads it."""

    def __init__(self, found: int) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"bundle: version {self.found}; expected {BUNDLE_VERSION}; update kdpipe on this device"


class BundleInvalidError(ReleaseError):
    """A bundle is malformed, truncated or tries something it must not."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return f"bundle {self.where}: found {self.found}; expected {self.expected}; publish it again from the student's export"


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The graph's one input. Text is uint8 [B, width] zero-padded UTF-8, floats are float32 [B, width]."""

    kind: InputKind
    name: str
    width: int
    """`max_bytes` for text, `features` for floats."""


@dataclass(frozen=True, kw_only=True)
class GoldenTolerance:
    """How far a device may be from the recorded answers; the gate chose it on the file that ships."""

    max_probability_difference: float = 0.05
    min_agreement: float = 1.0
    """Share of golden samples whose first class must be the recorded one, where the recorded margin exceeds the difference above."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """From which probability on the positive class is said, so that at most this share of the others is called so."""

    probability: float
    max_false_positive_rate: float


@dataclass(frozen=True, kw_only=True)
class RuntimeNeeds:
    """What must run the graph: ONNX versions it is written in, and the onnxruntime that the gate judged it with."""

    opset: int
    ir_version: int
    onnxruntime: str


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One sample with the answer that the gate saw from this very file."""

    input: str | tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BundleManifest:
    """Everything a device must know to run the graph."""

    student: str
    release: int
    """Number of the release within its student, from 1."""
    classes: tuple[str, ...]
    input: InputSpec
    temperature: float
    """probabilities = softmax(logits / temperature)."""
    positive: str | None
    teacher: str
    """Fingerprint of the teacher whose labels it learned from."""
    memory_bytes: int
    """What the model process needs, measured by the gate."""
    tolerance: GoldenTolerance = GoldenTolerance()
    threshold: Threshold | None = None
    """None where there is no positive class, or no labelled sample to choose it on."""
    runtime: RuntimeNeeds | None = None
    origin: Origin | None = None
    version: int = BUNDLE_VERSION

    def __post_init__(self) -> None:
        _check(self)

    def to_json(self) -> dict[str, Any]:
        width_key = "max_bytes" if self.input.kind == "text" else "features"
        later: dict[str, Any] = {}
        if self.version > 1:
            parts = {"threshold": self.threshold, "runtime": self.runtime, "origin": self.origin}
            later = {name: None if part is None else asdict(part) for name, part in parts.items()}
        return {
            "version": self.version,
            "student": self.student,
            "release": self.release,
            "classes": list(self.classes),
            "input": {"kind": self.input.kind, "name": self.input.name, width_key: self.input.width},
            "temperature": self.temperature,
            "positive": self.positive,
            "teacher": self.teacher,
            "memory_bytes": self.memory_bytes,
            "tolerance": {
                "max_probability_difference": self.tolerance.max_probability_difference,
                "min_agreement": self.tolerance.min_agreement,
            },
            **later,
        }


def parse_manifest(data: bytes) -> BundleManifest:
    """Read a manifest. Raises BundleVersionError for a newer one, BundleInvalidError for anything else that does not fit."""
    tree = _object(_load(data, "manifest"), "manifest")
    version = tree.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleInvalidError("manifest.version", repr(version), "a number")
    if version not in READABLE:
        raise BundleVersionError(version)
    known = {"version", "student", "release", "classes", "input", "temperature", "positive", "teacher", "memory_bytes", "tolerance"}
    if version > 1:
        known |= {"threshold", "runtime", "origin"}
    if set(tree) != known:
        raise BundleInvalidError("manifest", f"keys {sorted(tree)}"[:300], f"keys {sorted(known)}")
    spec = _object(tree["input"], "manifest.input")
    kind = spec.get("kind")
    if kind not in ("text", "floats"):
        raise BundleInvalidError("manifest.input.kind", repr(kind), "text or floats")
    tolerance = _object(tree["tolerance"], "manifest.tolerance")
    try:
        return BundleManifest(
            version=version,
            student=tree["student"],
            release=tree["release"],
            classes=tuple(tree["classes"]),
            input=InputSpec(kind=kind, name=spec["name"], width=spec["max_bytes" if kind == "text" else "features"]),
            temperature=tree["temperature"],
            positive=tree["positive"],
            teacher=tree["teacher"],
            memory_bytes=tree["memory_bytes"],
            tolerance=GoldenTolerance(
                max_probability_difference=tolerance["max_probability_difference"], min_agreement=tolerance["min_agreement"]
            ),
            threshold=_part(Threshold, tree.get("threshold"), "manifest.threshold"),
            runtime=_part(RuntimeNeeds, tree.get("runtime"), "manifest.runtime"),
            origin=None if tree.get("origin") is None else Origin.from_json(tree["origin"]),
        )
    except (KeyError, TypeError) as error:
        raise BundleInvalidError("manifest", f"{type(error).__name__} {error}", "every key with its type") from error


def golden_to_json(golden: Sequence[Golden]) -> list[dict[str, Any]]:
    return [{"input": g.input if isinstance(g.input, str) else list(g.input), "probabilities": list(g.probabilities)} for g in golden]


def parse_golden(data: bytes, manifest: BundleManifest) -> tuple[Golden, ...]:
    """Read golden samples and check that they fit the manifest. Raises BundleInvalidError."""
    rows = _load(data, "golden")
    if not isinstance(rows, list) or not rows:
        raise BundleInvalidError("golden", type(rows).__name__, "a list of at least one sample")
    return tuple(_golden(_object(row, "golden"), manifest) for row in rows)


def _golden(row: Mapping[str, Any], manifest: BundleManifest) -> Golden:
    probabilities = row.get("probabilities")
    if not _are_numbers(probabilities) or len(probabilities) != len(manifest.classes):
        raise BundleInvalidError("golden.probabilities", f"{probabilities!r:.80}", f"{len(manifest.classes)} numbers")
    value = row.get("input")
    if manifest.input.kind == "text":
        if not isinstance(value, str):
            raise BundleInvalidError("golden.input", type(value).__name__, "text")
        return Golden(input=value, probabilities=tuple(probabilities))
    if not _are_numbers(value) or len(value) != manifest.input.width:
        raise BundleInvalidError("golden.input", f"{value!r:.80}", f"{manifest.input.width} numbers")
    return Golden(input=tuple(value), probabilities=tuple(probabilities))


def _check(manifest: BundleManifest) -> None:
    def require(holds: bool, where: str, found: object, expected: str) -> None:
        if not holds:
            raise BundleInvalidError(f"manifest.{where}", f"{found!r:.80}", expected)

    m = manifest
    require(_is_label(m.student), "student", m.student, "a name")
    require(_is_count(m.release) and m.release >= 1, "release", m.release, "a number from 1")
    fits = 2 <= len(m.classes) <= MAX_CLASSES and all(_is_label(c) for c in m.classes) and len(set(m.classes)) == len(m.classes)
    require(fits, "classes", m.classes, f"2 to {MAX_CLASSES} different names")
    require(str(m.input.kind) in ("text", "floats"), "input.kind", m.input.kind, "text or floats")
    require(_is_label(m.input.name), "input.name", m.input.name, "a name")
    require(_is_count(m.input.width) and 1 <= m.input.width <= MAX_INPUT_WIDTH, "input width", m.input.width, f"1 to {MAX_INPUT_WIDTH}")
    require(_is_number(m.temperature) and m.temperature > 0, "temperature", m.temperature, "a number above 0")
    require(m.positive is None or (len(m.classes) == 2 and m.positive in m.classes), "positive", m.positive, "one of two classes, or null")
    require(_is_label(m.teacher, 1024), "teacher", m.teacher, "a fingerprint")
    require(_is_count(m.memory_bytes), "memory_bytes", m.memory_bytes, "a number of bytes")
    t = m.tolerance
    difference_fits = _is_number(t.max_probability_difference) and 0 <= t.max_probability_difference <= 1
    require(difference_fits, "tolerance.max_probability_difference", t.max_probability_difference, "a share")
    require(_is_number(t.min_agreement) and 0 <= t.min_agreement <= 1, "tolerance.min_agreement", t.min_agreement, "a share")

    if (chosen := m.threshold) is not None:
        is_share = all(_is_number(x) and 0 <= x <= 1 for x in (chosen.probability, chosen.max_false_positive_rate))
        require(is_share and m.positive is not None, "threshold", chosen, "two shares, with a positive class")
    if (needs := m.runtime) is not None:
        fits = all(_is_count(x) and x > 0 for x in (needs.opset, needs.ir_version)) and _is_label(needs.onnxruntime)
        require(fits, "runtime", needs, "opset and ir_version from 1, and a version of onnxruntime")


def _part(kind: type[P], tree: object, where: str) -> P | None:
    return None if tree is None else kind(**_object(tree, where))


def _load(data: bytes, where: str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleInvalidError(where, f"{error}"[:120], "JSON") from error


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BundleInvalidError(where, type(value).__name__, "an object")
    return value


def _is_label(value: object, longest: int = 256) -> bool:
    return isinstance(value, str) and 0 < len(value) <= longest


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and all(_is_number(v) for v in value)
