"""The same torch teacher in other backends: compiled, or exported to ONNX in float32 and in int8. Measuring them is left to the caller.

int8 is dynamic quantization of the weights of matrix products (onnxruntime). What can be exported is a module that takes numbers, and a
transformers model without its tokenizer; a module that takes texts does its tokenizing in Python, and stays with PyTorch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from pipeline.config import TeacherSection
from pipeline.teachers.teacher import TeacherLoadError


@runtime_checkable
class TorchMade(Protocol):
    """A raw teacher that is made of a torch module."""

    module: Any
    """None where it is an exported one already."""

    def write_onnx(self, inputs: Any, path: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class LabelError:
    """How far a backend's answers are from those of another."""

    kl_mean_nats: float
    agreement: float
    """Share of rows with the same most likely class."""


def torch_sections(section: TeacherSection) -> Mapping[str, TeacherSection]:
    """Backend -> a section that loads the teacher in it."""
    return {backend: section.model_copy(update={"backend": backend}) for backend in ("eager", "compile")}


def onnx_sections(section: TeacherSection, raw: TorchMade, inputs: Any, out: Path) -> Mapping[str, TeacherSection]:
    """The same for ONNX, from files that are written into the folder `out`. Raises TeacherLoadError where there is no export."""
    exported, small = (out / f"{name}.onnx" for name in ("teacher", "teacher-int8"))
    try:
        raw.write_onnx(inputs, exported)
        model = onnx.load(exported)
        del model.graph.value_info[:]  # shapes that quantizing would contradict
        quantize_dynamic(model, small, weight_type=QuantType.QInt8)
    except TeacherLoadError:
        raise
    except Exception as error:  # torch and onnx raise whatever they like for a module that they do not understand
        problem = f"no export to ONNX ({str(error)[:200]})"
        raise TeacherLoadError(f"teacher {section.use}", problem, "a module that exports", "keep to PyTorch") from error
    return {"onnx fp32": _in_onnx(section, exported), "onnx int8": _in_onnx(section, small)}


def _in_onnx(section: TeacherSection, path: Path) -> TeacherSection:
    file = str(path.resolve())
    if section.use == "transformers":
        return section.model_copy(update={"options": dict(section.options) | {"onnx": file}})
    # Only an exported program's options are about its output; those of a user's callable may mean anything.
    kept = {name: section.options[name] for name in ("classes", "gives") if section.use == "torch_export" and name in section.options}
    return section.model_copy(update={"use": "onnx", "path": file, "options": kept})


def label_error(log_probs_NK: NDArray[np.float32], reference_NK: NDArray[np.float32]) -> LabelError:
    """Of answers against the reference's, as soft labels; KL(reference || answers)."""
    probs_NK = np.exp(reference_NK.astype(np.float64))
    with np.errstate(invalid="ignore"):
        terms_NK = np.where(probs_NK > 0, probs_NK * (reference_NK - log_probs_NK), 0)
    same_N = reference_NK.argmax(axis=1) == log_probs_NK.argmax(axis=1)
    return LabelError(kl_mean_nats=float(max(terms_NK.sum(axis=1).mean(), 0)), agreement=float(same_N.mean()))
