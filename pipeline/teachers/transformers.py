"""Hugging Face models in a local folder as teachers: classification heads, and encoders with a head of their own.

The folder is one of `save_pretrained`: config.json, model.safetensors, a tokenizer. Nothing is fetched, no code of the folder is run, and
weights are read as safetensors only. Texts are cut at `max_tokens`. An encoder without a classification head needs the option `head`: a
safetensors file with `weight` [K, D] and `bias` [K], applied to the mean of the last layer's tokens.

Texts of like length go together: a batch costs its rows times its longest text (`batches`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.config import TeacherSection
from pipeline.teachers.fingerprints import fingerprint_of
from pipeline.teachers.inputs import to_list_or_matrix
from pipeline.teachers.logits import checked_options, classes_of, log_probs_of
from pipeline.teachers.teacher import RawTeacher, TeacherLoadError

OPTIONS = ("classes", "head", "max_tokens", "tokens_per_batch")
MAX_TOKENS = 256
TOKENS_PER_BATCH = 4096
"""Padded tokens of a batch: rows times the longest."""


def load_transformers(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    """The teacher in the folder `section.path`. Raises TeacherLoadError."""
    options = checked_options(section, OPTIONS)
    if section.path is None or not (folder := base / section.path).joinpath("config.json").is_file():
        found, expected = f"no config.json in {section.path!r}", "a local folder of save_pretrained"
        raise TeacherLoadError(f"teacher {section.use}", found, expected, "name it as `teacher.path` in the run file")
    head = options.get("head")
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # weights that a head of one's own leaves over are no news
    made = transformers.AutoModel if head else transformers.AutoModelForSequenceClassification
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = made.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        expected = "config.json, model.safetensors and a tokenizer that transformers knows"
        found, remedy = f"does not load ({str(error)[:200]})", "save it again with save_pretrained"
        raise TeacherLoadError(str(folder), found, expected, remedy) from error
    described = model.config.id2label
    facts = {"use": section.use, "options": options, "transformers": transformers.__version__, "torch": torch.__version__}
    facts |= {"backend": section.backend, "precision": section.precision}
    return TransformersTeacher(
        model.eval(),
        tokenizer,
        head=_head(base / head) if head else None,
        section=section,
        classes=classes_of(section, classes, None if head else [described[place] for place in sorted(described)]),
        fingerprint=fingerprint_of(facts, folder, *([base / head] if head else [])),
    )


class TransformersTeacher:
    """A model with its tokenizer. May be called by one thread at a time."""

    def __init__(
        self, model: Any, tokenizer: Any, *, head: Any | None, section: TeacherSection, classes: Sequence[str], fingerprint: str
    ) -> None:
        self.classes, self.fingerprint = classes, fingerprint
        self._device = torch.device("cuda" if section.gpus and torch.cuda.is_available() else "cpu")
        self._model, self._tokenizer, self._head = model.to(self._device), tokenizer, head
        self._max_tokens = int(section.options.get("max_tokens", MAX_TOKENS))
        self._tokens_per_batch = int(section.options.get("tokens_per_batch", TOKENS_PER_BATCH))
        self._bf16 = section.precision == "bf16"
        if section.backend == "compile":
            self._model = torch.compile(self._model, dynamic=True)

    def batches(self, inputs: Any) -> Sequence[NDArray[np.int64]]:
        """Places of the inputs in batches of like length, the longest first, each within the token budget."""
        # Tokenizing twice costs a hundredth of what the model does; characters are no measure of tokens.
        taken = self._tokenizer(inputs.to_pylist(), truncation=True, max_length=self._max_tokens)["input_ids"] if len(inputs) else []
        return by_length(np.array([len(tokens) for tokens in taken], dtype=np.int64), budget=self._tokens_per_batch)

    def log_probs(self, inputs: Any) -> Any:
        texts = to_list_or_matrix(inputs)
        taken = self._tokenizer(texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt").to(self._device)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            answer = self._model(**taken)
            if self._head is None:
                logits_BK = answer.logits
            else:
                logits_BK = self._head(_mean_of_tokens(answer.last_hidden_state, taken["attention_mask"]))
        return log_probs_of(logits_BK.float().cpu().numpy(), "logits")


def by_length(lengths_N: NDArray[np.int64], *, budget: int) -> list[NDArray[np.int64]]:
    """Places in batches whose rows times longest row stay within the budget; a single row may be longer. The longest come first."""
    order = np.argsort(-lengths_N, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, budget // max(int(lengths_N[order[start]]), 1))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def _mean_of_tokens(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    weight_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)


def _head(path: Path) -> torch.nn.Linear:
    try:
        weights = load_file(path)
        head = torch.nn.Linear(weights["weight"].shape[1], weights["weight"].shape[0])
        head.load_state_dict(weights)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        expected = "a safetensors file with `weight` [K, D] and `bias` [K]"
        raise TeacherLoadError(str(path), f"is no head ({str(error)[:200]})", expected, "correct `teacher.options.head`") from error
    return head.eval()
