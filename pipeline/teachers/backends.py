"""The same torch teacher in other backends: compiled, or exported to ONNX in float32 and in int8. Measuring them is left to the caller.

int8 is dynamic quantization of the weights of matrix products (onnxruntime). A teacher whose module takes numbers can be exported; one
that takes texts does its tokenizing in Python, and stays with PyTorch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from pipeline.config import TeacherSection
from pipeline.teachers.inputs import to_list_or_matrix
from pipeline.teachers.teacher import TeacherLoadError


@dataclass(frozen=True, kw_only=True)
class LabelError:
    """How far a backend's answers are from those of another."""

    kl_mean_nats: float
    agreement: float
    """Share of rows with the same most likely class."""


def sections_of(section: TeacherSection, module: torch.nn.Module, inputs: Any, out: Path) -> Mapping[str, TeacherSection]:
    """Backend -> a section that loads the teacher in it; ONNX files are written into the folder `out`.

    Raises TeacherLoadError where the module can't be exported.
    """
    found = {backend: section.model_copy(update={"backend": backend}) for backend in ("eager", "compile")}
    given = to_list_or_matrix(inputs)
    if isinstance(given, list):
        return found
    exported, small = out / "teacher.onnx", out / "teacher-int8.onnx"
    try:
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        example = (torch.from_numpy(given[:8].copy()),)
        torch.onnx.export(module.eval().cpu(), example, exported, dynamo=True, dynamic_shapes=shapes, verbose=False)
        model = onnx.load(exported)
        del model.graph.value_info[:]  # shapes that quantizing would contradict
        quantize_dynamic(model, small, weight_type=QuantType.QInt8)
    except Exception as error:  # torch and onnx raise whatever they like for a module that they do not understand
        problem = f"no export to ONNX ({str(error)[:200]})"
        raise TeacherLoadError(f"teacher {section.use}", problem, "a module that exports", "keep to PyTorch") from error
    for backend, path in (("onnx fp32", exported), ("onnx int8", small)):
        found[backend] = section.model_copy(update={"use": "onnx", "path": str(path.resolve()), "options": {}})
    return found


def label_error(log_probs_NK: NDArray[np.float32], reference_NK: NDArray[np.float32]) -> LabelError:
    """Of answers against the reference's, as soft labels; KL(reference || answers)."""
    probs_NK = np.exp(reference_NK.astype(np.float64))
    with np.errstate(invalid="ignore"):
        terms_NK = np.where(probs_NK > 0, probs_NK * (reference_NK - log_probs_NK), 0)
    same_N = reference_NK.argmax(axis=1) == log_probs_NK.argmax(axis=1)
    return LabelError(kl_mean_nats=float(max(terms_NK.sum(axis=1).mean(), 0)), agreement=float(same_N.mean()))
