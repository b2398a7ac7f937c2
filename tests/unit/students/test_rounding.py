"""Rounding toward the incumbent: what did not move keeps its code, and the file says the same as its module."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distill.metrics import accuracy
from pipeline.students.export import Exported, export_student
from pipeline.students.graph import Graph
from pipeline.students.rounding import SLACKS, round_toward, trained_tensors
from tests.kit.students import finish, mails, reader_of, spec, trainer_of


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, Exported, Exported]:
    """An incumbent; its successor, trained on from it, exported without it and with it."""
    folder, fit, choose = tmp_path_factory.mktemp("generations"), mails(80, seed=2), mails(80, seed=3)
    trainer, student = trainer_of(spec(steps=150), reader_of(mails(200)))
    finish(trainer)
    first = export_student(name="small", student=student, fit=fit, choose=choose, out=folder / "first")
    warm, successor = trainer_of(spec(steps=20, learning_rate=0.002), reader_of(mails(300, seed=9)))
    successor.module.load_state_dict(student.module.state_dict())
    finish(warm)
    alone = export_student(name="small", student=successor, fit=fit, choose=choose, out=folder / "alone")
    near = export_student(name="small", student=successor, fit=fit, choose=choose, out=folder / "near", incumbent=first.graph)
    return first, alone, near


def changed(a: Exported, b: Exported) -> float:
    """Share of the blob's bytes that differ."""
    before, after = (np.frombuffer(exported.weights.read_bytes(), dtype=np.uint8) for exported in (a, b))
    return float((before != after).mean())


def test_a_successor_shares_most_of_its_blob_with_its_incumbent(generations: tuple[Exported, Exported, Exported]) -> None:
    first, alone, near = generations
    assert near.graph.read_bytes() == first.graph.read_bytes()
    assert near.codes_kept > 0.5
    assert (first.codes_kept, alone.codes_kept) == (0.0, 0.0)
    assert changed(first, near) < changed(first, alone) / 2


def test_it_answers_like_the_successor_that_was_rounded_alone(generations: tuple[Exported, Exported, Exported]) -> None:
    _, alone, near = generations
    test = mails(100, seed=4)
    found, expected = (Graph(exported.graph, kind="text").logits(test.inputs) for exported in (near, alone))
    assert accuracy(found, test.hard_N) >= accuracy(expected, test.hard_N) - 0.02


def test_an_incumbent_of_another_graph_changes_nothing(generations: tuple[Exported, Exported, Exported], tmp_path: Path) -> None:
    first, _, _ = generations
    trainer, student = trainer_of(spec(steps=30, options={"max_bytes": 32, "width": 12, "embedding": 4}), reader_of(mails(100)))
    finish(trainer)
    exported = export_student(name="small", student=student, fit=mails(40), choose=mails(40), out=tmp_path, incumbent=first.graph)
    assert exported.codes_kept == 0.0


@given(st.sampled_from(SLACKS), st.integers(0, 2**32 - 1), st.booleans())
def test_no_code_is_further_from_its_value_than_the_slack(slack: float, seed: int, per_channel: bool) -> None:
    generator = np.random.default_rng(seed)
    scale = generator.uniform(0.01, 0.1, 4 if per_channel else ()).astype(np.float32)
    across = scale.reshape(1, -1) if per_channel else scale
    old = generator.integers(-100, 101, (6, 4), dtype=np.int8)
    floats = (across * np.clip(old + generator.normal(0, 10, (6, 4)), -127, 127)).astype(np.float32)
    model, incumbent = (
        model_of(np.zeros_like(old), scale),
        {"w_quantized": old, "w_scale": scale, "w_zero_point": np.zeros_like(scale, np.int8)},
    )
    rounded = round_toward(model, floats={"w": floats}, incumbent=incumbent, slack=slack)
    codes = trained_tensors(rounded.model)["w_quantized"].astype(float)
    off = np.abs(codes - floats / across)
    assert off.max() <= slack + 1e-3
    assert ((np.abs(old - floats / across) > slack + 1e-3) | (codes == old)).all()
    assert rounded.codes_kept == pytest.approx(float((codes == old).mean()))


def model_of(codes: np.ndarray, scale: np.ndarray) -> onnx.ModelProto:
    zero = np.zeros_like(scale, dtype=np.int8)
    node = onnx.helper.make_node("DequantizeLinear", ["w_quantized", "w_scale", "w_zero_point"], ["w"], axis=1)
    tensors = {"w_quantized": codes, "w_scale": scale, "w_zero_point": zero}
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
    output = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, codes.shape)
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], initializers))


def test_the_chosen_file_is_made_again_to_the_byte(generations: tuple[Exported, Exported, Exported], tmp_path: Path) -> None:
    first, _, near = generations
    trainer, student = trainer_of(spec(steps=150), reader_of(mails(200)))
    finish(trainer)
    warm, successor = trainer_of(spec(steps=20, learning_rate=0.002), reader_of(mails(300, seed=9)))
    successor.module.load_state_dict(student.module.state_dict())
    finish(warm)
    again = export_student(
        name="small", student=successor, fit=mails(80, seed=2), choose=mails(80, seed=3), out=tmp_path, incumbent=first.graph
    )
    assert again.weights.read_bytes() == near.weights.read_bytes()
    assert dataclasses.replace(again, graph=near.graph, weights=near.weights) == near
