"""The real model worker: right answers, and an end to everything that goes wrong in it."""

import os
import signal
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from pipeline.releases.bundle import build_bundle
from pipeline.releases.manifest import BundleManifest, Golden, InputSpec
from pipeline.rollout.slots import Slot, Slots
from tests.kit.bad_students import bloated_bundle, hanging_bundle
from tests.kit.bundles import TEXTS, text_bundle, text_probabilities, text_table, write_student
from workers.edge.inputs import encode, softmax
from workers.edge.model_process import ModelDiedError, ModelProcess, ModelRefusedError
from workers.edge.model_worker import LEAKED, LOOK_EVERY


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Slot:
    folder = tmp_path_factory.mktemp("slots")
    bundle = text_bundle(folder)
    return Slots(folder / "slots").stage(bundle.path, bundle.sha256)


def test_text_is_answered_as_bare_onnxruntime_answers_it(slot: Slot) -> None:
    model = ModelProcess.start(slot)
    try:
        batch = encode(slot.manifest.input, TEXTS)
        logits = model.run(batch)
        bare = onnxruntime.InferenceSession(str(slot.graph), providers=["CPUExecutionProvider"]).run(None, {"x": batch})[0]
        assert logits.logits_BK == pytest.approx(bare, abs=1e-6)
        for text, row in zip(TEXTS, softmax(logits.logits_BK, 1.0), strict=True):
            assert row == pytest.approx(text_probabilities(text, text_table(1)), abs=1e-5)
        assert logits.run_s > 0
        assert model.memory_bytes() > 10 << 20
    finally:
        model.close()
    assert not model.alive


def test_the_worker_tells_nobody_about_this_device(slot: Slot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime keeps a device id in the home folder if it reports to its maker."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ModelProcess.start(slot).close()
    assert list(tmp_path.iterdir()) == []


def test_floats_are_answered(tmp_path: Path) -> None:
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    graph, blob = write_student(tmp_path / "parts", kind="floats", weights=weights, width=3)
    manifest = BundleManifest(
        student="ads", release=1, classes=("a", "b"), input=InputSpec(kind="floats", name="x", width=3), temperature=1.0, positive=None,
        teacher="t", memory_bytes=1,
    )  # fmt: skip
    golden = [Golden(input=(1.0, 0.0, 0.0), probabilities=(0.27, 0.73))]
    bundle = build_bundle(tmp_path / "b.kdpb", manifest=manifest, graph=graph, weights=blob, golden=golden)
    model = ModelProcess.start(Slots(tmp_path / "slots").stage(bundle.path, bundle.sha256))
    try:
        assert model.run(encode(manifest.input, [[1.0, 2.0, 3.0]])).logits_BK.tolist() == [[16.0, 22.0]]
    finally:
        model.close()


def test_an_input_that_the_graph_refuses_does_not_end_the_worker(slot: Slot) -> None:
    model = ModelProcess.start(slot)
    try:
        with pytest.raises(ModelRefusedError):
            model.run(np.zeros((1, 7), dtype=np.uint8))
        assert model.run(encode(slot.manifest.input, ["x"])).logits_BK.shape == (1, 2)
    finally:
        model.close()


def test_a_worker_that_was_killed_is_noticed_and_not_asked_again(slot: Slot) -> None:
    model = ModelProcess.start(slot)
    os.kill(model.pid, signal.SIGKILL)
    with pytest.raises(ModelDiedError, match="exit code -9"):
        model.run(encode(slot.manifest.input, ["x"]))
    assert not model.alive
    with pytest.raises(ModelDiedError):
        model.run(encode(slot.manifest.input, ["x"]))
    model.close()


def test_a_worker_that_hangs_is_ended(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.edge.model_process.ANSWER_TIMEOUT_S", 0.2)
    model = ModelProcess.start(slot)
    os.kill(model.pid, signal.SIGSTOP)
    with pytest.raises(ModelDiedError, match="no answer within"):
        model.run(encode(slot.manifest.input, ["x"]))
    assert not model.alive
    model.close()


def test_a_graph_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.edge.model_process.ANSWER_TIMEOUT_S", 0.3)
    bundle = hanging_bundle(tmp_path, release=1)
    model = ModelProcess.start(Slots(tmp_path / "slots").stage(bundle.path, bundle.sha256))
    with pytest.raises(ModelDiedError, match="no answer within"):
        model.run(encode(model.slot.manifest.input, ["x"]))
    model.close()


def test_an_answer_that_wants_more_memory_than_the_release_may_have_is_refused(tmp_path: Path) -> None:
    bundle = bloated_bundle(tmp_path, release=1)
    model = ModelProcess.start(Slots(tmp_path / "slots").stage(bundle.path, bundle.sha256))
    try:
        with pytest.raises(ModelRefusedError, match="llocat"):
            model.run(encode(model.slot.manifest.input, ["x"]))
        assert model.memory_bytes() < 200 << 20
    finally:
        model.close()


def test_a_worker_that_leaks_ends_itself(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.edge.model_process.memory_limit_bytes", lambda declared: 1)
    model = ModelProcess.start(slot)
    batch = encode(slot.manifest.input, ["x"])
    for _ in range(LOOK_EVERY):
        model.run(batch)
    with pytest.raises(ModelDiedError, match=f"exit code {LEAKED}"):
        model.run(batch)
    model.close()


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux only")
def test_the_kernel_ends_the_model_before_its_agent(slot: Slot) -> None:
    model = ModelProcess.start(slot)
    try:
        mine, its = (int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in ("self", model.pid))
        assert its > mine
    finally:
        model.close()


def test_requests_of_changing_shapes_are_each_answered(slot: Slot) -> None:
    model = ModelProcess.start(slot)
    try:
        for texts in (TEXTS, TEXTS[:1], TEXTS[1:2], TEXTS[:2], TEXTS[:1]):
            rows = softmax(model.run(encode(slot.manifest.input, texts)).logits_BK, 1.0)
            for text, row in zip(texts, rows, strict=True):
                assert row == pytest.approx(text_probabilities(text, text_table(1)), abs=1e-5)
    finally:
        model.close()


def test_a_graph_that_does_not_load_is_refused_with_its_reason(slot: Slot, tmp_path: Path) -> None:
    broken = Slot(digest=slot.digest, folder=tmp_path, manifest=slot.manifest, golden=slot.golden)
    (tmp_path / "graph.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelRefusedError, match="Protobuf"):
        ModelProcess.start(broken)
