"""PyTorch models as teachers: a module that the user's callable returns, and a saved `torch.export` program.

Logits [B, K] come out; float32 [B, F] goes in, or a list of B texts to a module that can take them. Eager or compiled, in float32 or under
bfloat16 autocast. On a GPU if the teacher leases one; that path is written and has not been run.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.config import TeacherSection
from pipeline.teachers.fingerprints import fingerprint_of
from pipeline.teachers.inputs import to_list_or_matrix
from pipeline.teachers.logits import Gives, checked_options, classes_of, gives_of, log_probs_of
from pipeline.teachers.teacher import RawTeacher, TeacherLoadError

EXPORT_OPTIONS = ("classes", "gives", "trusted")


class TorchTeacher:
    """A module in evaluation mode. May be called by one thread at a time."""

    def __init__(
        self, module: torch.nn.Module, *, section: TeacherSection, classes: Sequence[str], fingerprint: str, gives: Gives = "logits"
    ) -> None:
        self.classes, self.fingerprint = classes, fingerprint
        self._gives, self._precision = gives, section.precision
        self.module = module
        self._device = torch.device("cuda" if section.gpus and torch.cuda.is_available() else "cpu")
        self._call: Callable[[Any], Any] = module.to(self._device)
        if section.backend == "compile":
            self._call = torch.compile(module, dynamic=True)

    def log_probs(self, inputs: Any) -> Any:
        given = to_list_or_matrix(inputs)
        if not isinstance(given, list):
            given = torch.from_numpy(given.copy() if not given.flags.writeable else given).to(self._device)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            answer = self._call(given)
        return log_probs_of(answer.float().cpu().numpy(), self._gives)

    def write_onnx(self, inputs: Any, path: Path) -> None:
        """Write the module as an ONNX file, for any number of rows like these. Raises TeacherLoadError, and what torch raises."""
        given = to_list_or_matrix(inputs)
        if isinstance(given, list):
            raise TeacherLoadError("teacher", "a module that takes texts, which ONNX has no tokenizer for", "numbers", "keep to PyTorch")
        rows = torch.from_numpy(given[:8].copy()).to(self._device)
        free = ({0: torch.export.Dim.DYNAMIC},)
        torch.onnx.export(self.module, (rows,), path, dynamo=True, dynamic_shapes=free, verbose=False)


def module_teacher(module: torch.nn.Module, *, section: TeacherSection, classes: tuple[str, ...], fingerprint: str) -> RawTeacher:
    """The module that a user's callable made; its outputs are logits in the run file's order of classes."""
    facts = {"callable": fingerprint, **_backend(section), "weights": _weights(module)}
    return TorchTeacher(module.eval(), section=section, classes=classes, fingerprint=fingerprint_of(facts))


def load_export(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    """A program saved by `torch.export.save`, in the file `section.path`.

    PyTorch reads parts of such a file with pickle, which can run code: it is opened only with the option `trusted`.
    Raises TeacherLoadError.
    """
    options = checked_options(section, EXPORT_OPTIONS)
    if section.path is None or not (path := base / section.path).is_file():
        expected = "a .pt2 file of torch.export.save"
        raise TeacherLoadError(f"teacher {section.use}", f"no file {section.path!r}", expected, "name it as `teacher.path` in the run file")
    if options.get("trusted") is not True:
        found, expected = "a file that PyTorch opens with pickle, which can run code", "`trusted = true` in `teacher.options`"
        raise TeacherLoadError(str(path), found, expected, "set it if you know who wrote the file, or export to ONNX")
    try:
        module = torch.export.load(str(path)).module()
    except Exception as error:  # a damaged file fails in many of PyTorch's ways
        raise TeacherLoadError(str(path), f"does not load ({str(error)[:200]})", "a whole .pt2 file", "export it again") from error
    module.training = False  # what a program does is fixed, and its eval() raises; exporters look at this
    return TorchTeacher(
        module,
        section=section,
        classes=classes_of(section, classes),
        fingerprint=fingerprint_of({"use": section.use, "options": options, **_backend(section)}, path),
        gives=gives_of(section),
    )


def _backend(section: TeacherSection) -> dict[str, str]:
    return {"torch": torch.__version__, "backend": section.backend, "precision": section.precision}


def _weights(module: torch.nn.Module) -> str:
    """A hash of the module's parameters and buffers, by name."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
