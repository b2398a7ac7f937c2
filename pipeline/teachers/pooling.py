"""From the tokens of a text to one embedding, as the folder of a sentence-transformers model says it.

`modules.json` of such a folder lists what follows the transformer: `Pooling`, with a config.json of its own, and perhaps `Normalize`.
The options `pooling` and `normalize` say otherwise. A folder that says nothing means the mean of the tokens, not normalized.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.files import read_bounded
from pipeline.teachers.teacher import TeacherLoadError

Mode = Literal["mean", "cls"]
MAX_CONFIG_BYTES = 2**20
FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
"""How a Pooling module's config.json names what we know, each true or false."""


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """What becomes of a text's tokens."""

    mode: Mode
    normalize: bool
    """To unit length."""


def pooling_of(folder: Path, options: Mapping[str, Any]) -> Pooling:
    """By the options `pooling` and `normalize`, else by the folder. Raises TeacherLoadError."""
    mode, normalize = options.get("pooling"), options.get("normalize")
    for name, value, known in (("pooling", mode, get_args(Mode)), ("normalize", normalize, (True, False))):
        if value is not None and value not in known:
            expected, remedy = f"one of: {', '.join(map(str, known)).lower()}", "correct `teacher.options` in the run file"
            raise TeacherLoadError(str(folder), f"{name} = {value!r}", expected, remedy)
    if mode is not None and normalize is not None:
        return Pooling(mode=mode, normalize=normalize)
    described = _described(folder)
    return Pooling(mode=mode or described.mode, normalize=described.normalize if normalize is None else normalize)


def _described(folder: Path) -> Pooling:
    path = folder / "modules.json"
    mode, normalize = "mean", False
    listed = _json(path) if path.is_file() else []
    if not isinstance(listed, list):
        raise _refused(path, "no list", "the list of modules that sentence-transformers writes")
    for module in listed:
        try:
            kind, below = str(module["type"]).rpartition(".")[2], str(module["path"])
        except (TypeError, KeyError) as error:
            raise _refused(path, "an entry without `type` or `path`", "modules of sentence-transformers") from error
        if kind == "Pooling":
            mode = _mode(folder / below / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise _refused(path, f"a module {kind!r}", "Transformer, Pooling and Normalize")
    return Pooling(mode=mode, normalize=normalize)  # type: ignore[arg-type]  # _mode refuses others


def _mode(path: Path) -> str:
    config = _json(path)
    if not isinstance(config, dict):
        raise _refused(path, "no object", "the configuration of a Pooling module")
    modes = [name for name, on in config.items() if name.startswith("pooling_mode_") and on]
    modes = [FLAGS.get(name, name) for name in modes] or [str(config.get("pooling_mode", "none"))]
    if len(modes) != 1 or modes[0] not in get_args(Mode):
        raise _refused(path, f"pooling {' and '.join(modes)}", f"one of: {', '.join(get_args(Mode))}")
    return str(modes[0])


def _json(path: Path) -> Any:
    try:
        return json.loads(read_bounded(path, MAX_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise _refused(path, f"does not read ({type(error).__name__})", "JSON as sentence-transformers writes it") from error


def _refused(path: Path, found: str, expected: str) -> TeacherLoadError:
    return TeacherLoadError(str(path), found, expected, "if the head was fitted so, set `pooling` and `normalize` in `teacher.options`")
