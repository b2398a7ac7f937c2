"""The zoo of students, and the way from a run file's section to a module.

A student is a `torch.nn.Module` that maps inputs to logits [B, K]. For text it has `max_bytes` and eats uint8 [B, max_bytes]; for
floats it has `features` and eats float32 [B, features]. `jitter_bytes`, where it has one, is how far training may shift a text;
`float_parts` names submodules that are not rounded to int8 in the file that ships. A user's own (`module:callable`) is called with
`classes=K` and the options. Initial weights depend on nothing but the seed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import StudentSection
from pipeline.errors import StudentError
from pipeline.inputs import InputKind
from pipeline.references import import_reference
from pipeline.students.models.byte_conv import ByteConv
from pipeline.students.models.columns import Columns
from pipeline.students.models.mlp import Mlp
from pipeline.students.models.pixels import Pixels
from pipeline.students.models.waveform import Waveform

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "byte_conv": ByteConv,
    "columns": Columns,
    "mlp": Mlp,
    "pixels": Pixels,
    "waveform": Waveform,
}

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class StudentBuildError(StudentError):
    """A student's callable or options do not make a module of the expected shape."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; expected {self.expected}; correct `use` or `options` of the student in the run file"


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """What a student is made of: enough to build it again anywhere."""

    name: str
    section: StudentSection
    classes: tuple[str, ...]
    kind: InputKind
    base: Path
    """Folder of the user's own modules."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Student:
    """A built module and the shape of what it eats."""

    module: nn.Module
    kind: InputKind
    width: int
    """`max_bytes` or `features`."""
    jitter_bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def example(self) -> Tensor:
        """Two inputs, of zeros."""
        return torch.zeros((2, self.width), dtype=torch.uint8 if self.kind == "text" else torch.float32)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters())


def build_student(spec: StudentSpec) -> Student:
    """The student with its initial weights. Raises StudentBuildError, ReferenceNotFoundError."""
    section, where = spec.section, f"students.{spec.name}"
    make = MODELS[section.use] if section.use in MODELS else _users(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        try:
            module: Any = make(classes=len(spec.classes), **section.options)
        except (TypeError, ValueError) as error:
            raise StudentBuildError(
                f"{where}.options", f"{section.use} says: {error}", "options that it knows and values that fit"
            ) from error
    if not isinstance(module, nn.Module):
        raise StudentBuildError(f"{where}.use", f"{section.use} returned a {type(module).__name__}", "a torch.nn.Module")
    _refuse_halves(spec, module)
    attribute = "max_bytes" if spec.kind == "text" else "features"
    width = getattr(module, attribute, None)
    if not isinstance(width, int) or width < 1:
        raise StudentBuildError(
            f"{where}.use", f"{section.use} has {attribute} = {width!r}", f"`{attribute}`, the width of its {spec.kind} input"
        )
    _check_float_parts(where, spec.section.use, module)
    return Student(
        module=module,
        kind=spec.kind,
        width=width,
        jitter_bytes=int(getattr(module, "jitter_bytes", 0)),
        warnings=_warnings(spec, module),
    )


def _check_float_parts(where: str, use: str, module: nn.Module) -> None:
    """Raises StudentBuildError for a name that is no submodule's: what was to stay in floats would be rounded."""
    parts, known = getattr(module, "float_parts", ()), [name for name, _ in module.named_modules() if name]
    strange = [parts] if isinstance(parts, str) else [part for part in parts if part not in known]
    if strange:
        shown = ", ".join(known[:20]) or "none, as it has no submodules"
        raise StudentBuildError(f"{where}.use", f"{use} has float_parts with {strange[0]!r:.60}", f"a tuple of names out of: {shown}")


def _users(spec: StudentSpec) -> Callable[..., Any]:
    if ":" not in spec.section.use:
        raise StudentBuildError(
            f"students.{spec.name}.use", f"no student named {spec.section.use!r}", f"one of {', '.join(sorted(MODELS))}, or module:callable"
        )
    return import_reference(spec.section.use, base=spec.base)


def _refuse_halves(spec: StudentSpec, module: nn.Module) -> None:
    """Raises StudentBuildError: steps, their average and the export are of float32."""
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            found = f"{spec.section.use} has weights {name!r} of {parameter.dtype}"
            raise StudentBuildError(f"students.{spec.name}.use", found, 'torch.float32; to compute in less, set `precision = "bf16"`')


def _warnings(spec: StudentSpec, module: nn.Module) -> tuple[str, ...]:
    parts = list(module.named_modules())
    norms = [layer for layer, part in parts if isinstance(part, BATCH_NORMS)]
    dropouts = [layer for layer, part in parts if isinstance(part, DROPOUTS) and part.p > 0]
    found = []
    if norms:
        found.append(f"normalises over batches ({norms[0]}): what it learns depends on the number of workers and on short batches")
    if dropouts and spec.section.workers_most > 1:
        found.append(f"drops out ({dropouts[0]}): each worker draws masks of its own, so what it learns depends on their number")
    return tuple(f"student {spec.name} {each}" for each in found)
