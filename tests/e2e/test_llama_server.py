"""The server adapter against a server that we did not write: llama-cpp-python's, with a model of yours.

pip install 'llama-cpp-python[server]'        # builds llama.cpp: some minutes, and a C++ compiler
KDPIPE_TEST_GGUF=/models/any.gguf .venv/bin/python -m pytest -m slow tests/e2e/test_llama_server.py
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import urllib3

from pipeline.config import TeacherSection
from pipeline.teachers import Teacher, load_teacher

START_S = 120.0
PROMPT = "Is this e-mail spam or ham? Answer with one of these two words.\n\n{text}\n\nThe e-mail is"
TEXTS = ["Win free money now, click here!", "The agenda of tomorrow's meeting is attached."]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = os.environ.get("KDPIPE_TEST_GGUF")
    if not model:
        pytest.skip("needs a model: set KDPIPE_TEST_GGUF to a GGUF file and install 'llama-cpp-python[server]', then run this again")
    assert Path(model).is_file(), f"KDPIPE_TEST_GGUF={model}: no such file"
    assert importlib.util.find_spec("llama_cpp"), "KDPIPE_TEST_GGUF is set; pip install 'llama-cpp-python[server]'"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("llama") / "server.log"
    options = [
        "--model",
        model,
        "--model_alias",
        "tiny",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--logits_all",
        "true",
        "--n_ctx",
        "512",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "llama_cpp.server", *options], stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/v1", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until_s = time.monotonic() + START_S
    with urllib3.PoolManager(retries=False, timeout=5.0) as pool:
        while True:
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            try:
                if pool.request("GET", f"{url}/models").status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                assert time.monotonic() < until_s, log.read_text(errors="replace")[-2000:]
            time.sleep(0.2)


def load(url: str, api: str) -> Teacher:
    options = {"url": url, "model": "tiny", "prompt": PROMPT, "words": {"ham": "ham", "spam": "spam"}, "api": api, "least_mass": 0.0}
    return load_teacher(TeacherSection(use="openai", options=options | {"concurrency": 1}), classes=("ham", "spam"), base=Path())


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_real_server_gives_a_distribution_over_label_words(url: str, api: str) -> None:
    log_probs = load(url, api).log_probs(pa.array(TEXTS))
    assert np.isfinite(log_probs).all()
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(load(url, api).log_probs(pa.array(TEXTS)), log_probs, atol=1e-3)


def test_a_prompt_that_is_too_long_for_a_real_server_is_the_rows_own_fault(url: str) -> None:
    teacher = load(url, "completions")
    with pytest.raises(Exception, match="refuses the prompt"):
        teacher.log_probs(pa.array(["word " * 5000]))
