"""Sentence embedders: what becomes of a text's tokens, as their folder or the run file says, against a computation by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.config import TeacherSection
from pipeline.teachers import Teacher, load_teacher
from pipeline.teachers.pooling import Pooling, pooling_of
from pipeline.teachers.teacher import Answer, TeacherLoadError, answer_of
from tests.kit.text_models import WORDS, describe_modules, write_bert

CLASSES = ("ham", "spam", "news")
TEXTS = ["free money", "see the agenda of the meeting tomorrow", "a"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(4)
    save_file({"weight": torch.randn(3, 16), "bias": torch.randn(3)}, tmp_path / "head.safetensors")
    return write_bert(tmp_path / "bert", classes=CLASSES)


def load(folder: Path, **options: Any) -> Teacher:
    section = TeacherSection(use="transformers", path=folder.name, options={"head": "head.safetensors"} | options)
    return load_teacher(section, classes=CLASSES, base=folder.parent)


def by_hand(folder: Path, *, mode: str, normalize: bool) -> Answer:
    """One text at a time, without padding, with the words' places in the vocabulary as tokens."""
    model = transformers.BertModel.from_pretrained(folder).eval()
    head = load_file(folder.parent / "head.safetensors")
    weight, bias = head["weight"].numpy(), head["bias"].numpy()
    embeddings = []
    for text in TEXTS:
        with torch.inference_mode():
            hidden_TD = model(input_ids=torch.tensor([[WORDS.index(word) for word in text.split()]])).last_hidden_state[0].numpy()
        embedding = hidden_TD[0] if mode == "cls" else hidden_TD.mean(axis=0)
        embeddings.append(embedding / np.sqrt((embedding**2).sum()) if normalize else embedding)
    logits = np.stack(embeddings) @ weight.T + bias
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Answer(log_probs_BK=log_probs, embedding_BD=np.stack(embeddings))


def assert_says(teacher: Teacher, expected: Answer) -> None:
    answer = answer_of(teacher, pa.array(TEXTS))
    np.testing.assert_allclose(answer.log_probs_BK, expected.log_probs_BK, atol=1e-5)
    assert answer.embedding_BD is not None
    assert expected.embedding_BD is not None
    assert answer.embedding_BD.dtype == np.float32
    np.testing.assert_allclose(answer.embedding_BD, expected.embedding_BD, atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_options_say_what_becomes_of_the_tokens_and_the_embedding_is_in_the_answer(folder, mode, normalize):
    assert_says(load(folder, pooling=mode, normalize=normalize), by_hand(folder, mode=mode, normalize=normalize))


def test_a_folder_that_says_nothing_means_the_mean(folder):
    assert_says(load(folder), by_hand(folder, mode="mean", normalize=False))


def test_what_the_folder_says_is_done(folder):
    silent = load(folder).fingerprint
    describe_modules(folder, {"Pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "Normalize": {}})
    assert_says(load(folder), by_hand(folder, mode="cls", normalize=True))
    assert_says(load(folder, pooling="mean"), by_hand(folder, mode="mean", normalize=True))
    assert len({silent, load(folder).fingerprint, load(folder, pooling="mean").fingerprint}) == 3


def test_the_first_token_is_a_texts_own_whatever_side_the_tokenizer_pads_on(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))
    assert_says(load(folder, pooling="cls"), by_hand(folder, mode="cls", normalize=False))


def test_the_newer_way_to_name_a_mode_is_read(folder):
    describe_modules(folder, {"Pooling": {"pooling_mode": "cls", "include_prompt": True}})
    assert pooling_of(folder, {}) == Pooling(mode="cls", normalize=False)


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        (
            {"Pooling": {"pooling_mode_max_tokens": True}},
            r"1_Pooling/config\.json: pooling pooling_mode_max_tokens; expected one",
        ),
        ({"Pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}}, "pooling mean and cls; expected one of"),
        ({"Pooling": {"pooling_mode": "lasttoken"}}, "pooling lasttoken; expected one of"),
        ({"Pooling": {}}, "pooling none; expected one of"),
        ({"Pooling": [1]}, "no object; expected the configuration of a Pooling module"),
        ({"Pooling": {"pooling_mode_mean_tokens": True}, "Dense": {}}, r"modules\.json: a module 'Dense'; expected Transformer, Pooling"),
    ],
)
def test_what_the_folder_says_and_we_do_not_have_is_refused_unless_the_options_say_it_all(folder, modules, problem):
    describe_modules(folder, modules)
    with pytest.raises(TeacherLoadError, match=problem):
        load(folder)
    with pytest.raises(TeacherLoadError, match=problem):
        load(folder, pooling="mean")
    assert_says(load(folder, pooling="mean", normalize=False), by_hand(folder, mode="mean", normalize=False))


@pytest.mark.parametrize("content", ["", "[", "[1]", "[{}]", '{"a": 1}', "1"])
def test_a_damaged_description_is_named(folder, content):
    (folder / "modules.json").write_text(content)
    with pytest.raises(TeacherLoadError, match=r"modules\.json: "):
        load(folder)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"pooling": "max"}, "pooling = 'max'; expected one of: mean, cls"),
        ({"normalize": "yes"}, "normalize = 'yes'; expected one of: true, false"),
        ({"head": None, "pooling": "cls"}, "option 'pooling' for a model that has a head"),
    ],
)
def test_options_that_cannot_be_are_refused(folder, options, problem):
    with pytest.raises(TeacherLoadError, match=problem):
        load(folder, **options)
