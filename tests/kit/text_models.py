"""Language models for tests: random, of a few thousand parameters, with the files that real ones have."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ("[UNK]", "[PAD]", "free", "money", "meeting", "agenda", "news", "the", "of", "a", "see", "tomorrow")


def write_bert(folder: Path, *, classes: Sequence[str]) -> Path:
    """A BERT with a head for these classes, and a tokenizer of twelve words."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=64
    )
    config.id2label = dict(enumerate(classes))
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def describe_modules(folder: Path, modules: Mapping[str, Any]) -> None:
    """Write what sentence-transformers writes: kind of module -> its config, in their order, after the Transformer."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for place, (kind, config) in enumerate(modules.items(), start=1):
        name = f"{place}_{kind}"
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        listed.append({"idx": place, "name": str(place), "path": name, "type": f"sentence_transformers.models.{kind}"})
    (folder / "modules.json").write_text(json.dumps(listed))
