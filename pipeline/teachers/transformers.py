"""Hugging Face models in a local folder as teachers: classification heads, and encoders with a head of their own.

The folder is one of `save_pretrained`: config.json, model.safetensors, a tokenizer. Nothing is fetched, no code of the folder is run, and
weights are read as safetensors only. Texts are cut at `max_tokens`. An encoder without a classification head needs the option `head`: a
safetensors file with `weight` [K, D] and `bias` [K], applied to the embedding that `pooling` makes of the last layer's tokens. The option
`onnx` names a file that stands for model, pooling and head, as `kdpipe teachers bench` writes it; the folder's tokenizer stays in front.

Texts of like length go together: a batch costs its rows times its longest text (`batches`).
B texts, T tokens, D width of the embedding, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.config import TeacherSection
from pipeline.teachers.fingerprints import fingerprint_of
from pipeline.teachers.inputs import to_list_or_matrix
from pipeline.teachers.logits import checked_options, classes_of, log_probs_of
from pipeline.teachers.onnx import open_model
from pipeline.teachers.pooling import Pooling, pooling_of
from pipeline.teachers.teacher import Answer, RawTeacher, TeacherLoadError

OPTIONS = ("classes", "head", "max_tokens", "normalize", "onnx", "pooling", "tokens_per_batch")
MAX_TOKENS = 256
TOKENS_PER_BATCH = 4096
"""Padded tokens of a batch: rows times the longest."""

Tokens = Mapping[str, torch.Tensor]
"""What a tokenizer makes of texts, each [B, T]: `input_ids`, `attention_mask`, perhaps `token_type_ids`."""
Ask = Callable[[Tokens], Sequence[NDArray[np.float32]]]
"""From tokens to logits [B, K] and, with a head of one's own, the embedding [B, D]."""


def load_transformers(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    """The teacher in the folder `section.path`. Raises TeacherLoadError."""
    options = checked_options(section, OPTIONS)
    if section.path is None or not (folder := base / section.path).joinpath("config.json").is_file():
        found, expected = f"no config.json in {section.path!r}", "a local folder of save_pretrained"
        raise TeacherLoadError(f"teacher {section.use}", found, expected, "name it as `teacher.path` in the run file")
    head = base / options["head"] if options.get("head") else None
    if head is None and (unused := sorted({"normalize", "pooling"} & set(options))):
        found, expected = f"option {unused[0]!r} for a model that has a head", "it beside the option `head`"
        raise TeacherLoadError(f"teacher {section.use}", found, expected, "correct `teacher.options` in the run file")
    pooling = pooling_of(folder, options) if head else None
    facts = {"use": section.use, "options": options, "transformers": transformers.__version__, "torch": torch.__version__}
    facts |= {"backend": section.backend, "precision": section.precision} | ({"pooling": vars(pooling)} if pooling else {})
    tokenizer, described = _read(folder, lambda named: _tokenizer_and_classes(folder, named))
    module: TextModel | None = None
    if options.get("onnx"):
        session, weights = open_model(base / options["onnx"], section)
        files, facts = [folder, *weights], facts | {"onnxruntime": onnxruntime.__version__}
        ask = _asking_session(session)
    else:
        made = transformers.AutoModel if head else transformers.AutoModelForSequenceClassification
        model = _read(folder, lambda named: made.from_pretrained(folder, **named, use_safetensors=True))
        module = TextModel(model, pooling, _head(head) if head else None).eval()
        ask, files = _asking_module(module, section), [folder, *([head] if head else [])]
    return TransformersTeacher(
        ask,
        tokenizer,
        module=module,
        section=section,
        classes=classes_of(section, classes, None if head else described),
        fingerprint=fingerprint_of(facts, *files),
    )


class TextModel(torch.nn.Module):
    """A model and what is done to its tokens, as one module: what is compiled and exported."""

    def __init__(self, model: torch.nn.Module, pooling: Pooling | None, head: torch.nn.Module | None) -> None:
        super().__init__()
        self.model, self.pooling, self.head = model, pooling, head

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Logits [B, K]; with a head of one's own also the embedding [B, D] that it is given."""
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        answer = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
        if self.head is None or self.pooling is None:
            return (answer.logits,)
        embedding_BD = pooled(answer.last_hidden_state.float(), attention_mask, self.pooling)
        return self.head(embedding_BD), embedding_BD


class TransformersTeacher:
    """A tokenizer with a model behind it. May be called by one thread at a time."""

    def __init__(
        self, ask: Ask, tokenizer: Any, *, module: TextModel | None, section: TeacherSection, classes: Sequence[str], fingerprint: str
    ) -> None:
        self.classes, self.fingerprint = classes, fingerprint
        self.module = module
        """None where an ONNX file answers."""
        self._ask, self._tokenizer = ask, tokenizer
        self._max_tokens = int(section.options.get("max_tokens", MAX_TOKENS))
        self._tokens_per_batch = int(section.options.get("tokens_per_batch", TOKENS_PER_BATCH))

    def batches(self, inputs: Any) -> Sequence[NDArray[np.int64]]:
        """Places of the inputs in batches of like length, the longest first, each within the token budget."""
        # Tokenizing twice costs a hundredth of what the model does; characters are no measure of tokens.
        taken = self._tokenizer(inputs.to_pylist(), truncation=True, max_length=self._max_tokens)["input_ids"] if len(inputs) else []
        return by_length(np.array([len(tokens) for tokens in taken], dtype=np.int64), budget=self._tokens_per_batch)

    def log_probs(self, inputs: Any) -> Answer:
        logits_BK, *embedding = self._ask(self._tokens(inputs))
        return Answer(log_probs_BK=log_probs_of(logits_BK, "logits"), embedding_BD=embedding[0] if embedding else None)

    def write_onnx(self, inputs: Any, path: Path) -> None:
        """Write all but the tokenizer as an ONNX file, for any number of texts and tokens. Raises what torch raises."""
        assert self.module is not None
        free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        taken = {name: part.to(next(self.module.parameters()).device) for name, part in self._tokens(inputs[:8]).items()}
        shapes = dict.fromkeys(taken, free)
        torch.onnx.export(self.module, (), path, kwargs=taken, input_names=list(taken), dynamo=True, dynamic_shapes=shapes, verbose=False)

    def _tokens(self, inputs: Any) -> Tokens:
        texts = to_list_or_matrix(inputs)
        return dict(self._tokenizer(texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"))


def by_length(lengths_N: NDArray[np.int64], *, budget: int) -> list[NDArray[np.int64]]:
    """Places in batches whose rows times longest row stay within the budget; a single row may be longer. The longest come first."""
    order = np.argsort(-lengths_N, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, budget // max(int(lengths_N[order[start]]), 1))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def pooled(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One embedding [B, D] a text: the first token's, or the mean of those that the mask has."""
    if pooling.mode == "cls":
        embedding_BD = hidden_BTD[:, 0]
    else:
        weight_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
        embedding_BD = (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)
    return torch.nn.functional.normalize(embedding_BD, dim=1) if pooling.normalize else embedding_BD


def _asking_module(module: TextModel, section: TeacherSection) -> Ask:
    device = torch.device("cuda" if section.gpus and torch.cuda.is_available() else "cpu")
    module.to(device)
    call: Callable[..., Any] = torch.compile(module, dynamic=True) if section.backend == "compile" else module

    def ask(taken: Tokens) -> Sequence[NDArray[np.float32]]:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=section.precision == "bf16"):
            return [given.float().cpu().numpy() for given in call(**{name: part.to(device) for name, part in taken.items()})]

    return ask


def _asking_session(session: Any) -> Ask:
    names = [taken.name for taken in session.get_inputs()]
    return lambda taken: session.run(None, {name: taken[name].numpy() for name in names})


def _tokenizer_and_classes(folder: Path, named: Mapping[str, Any]) -> tuple[Any, list[str]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **named)
    tokenizer.padding_side = "right"  # the first token is then a text's own
    described = transformers.AutoConfig.from_pretrained(folder, **named).id2label
    return tokenizer, [described[place] for place in sorted(described)]


def _read(folder: Path, read: Callable[[Mapping[str, Any]], Any]) -> Any:
    """What transformers reads in the folder, and nowhere else. Raises TeacherLoadError."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # weights that a head of one's own leaves over are no news
    try:
        return read({"local_files_only": True, "trust_remote_code": False})
    except (OSError, ValueError, KeyError, ImportError) as error:
        expected = "config.json, model.safetensors and a tokenizer that transformers knows"
        found, remedy = f"does not load ({str(error)[:200]})", "save it again with save_pretrained"
        raise TeacherLoadError(str(folder), found, expected, remedy) from error


def _head(path: Path) -> torch.nn.Linear:
    try:
        weights = load_file(path)
        head = torch.nn.Linear(weights["weight"].shape[1], weights["weight"].shape[0])
        head.load_state_dict(weights)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        expected = "a safetensors file with `weight` [K, D] and `bias` [K]"
        raise TeacherLoadError(str(path), f"is no head ({str(error)[:200]})", expected, "correct `teacher.options.head`") from error
    return head.eval()
