"""Rounding toward the incumbent: what did not move keeps its code, and the file says the same as its module."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distill.metrics import accuracy
from pipeline.releases.delta import Span, make_delta
from pipeline.students.export import Exported, export_student
from pipeline.students.graph import Graph
from pipeline.students.models import Student
from pipeline.students.rounding import DEAD_ZONE, GRAINS, round_toward, trained_tensors
from tests.kit.students import finish, mails, reader_of, spec, trainer_of


@dataclass(frozen=True, kw_only=True)
class Generations:
    """An incumbent; its successor, trained on from it, exported without it and with it."""

    successor: Student
    first: Exported
    alone: Exported
    near: Exported


FIT, CHOOSE = mails(80, seed=2), mails(80, seed=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Generations:
    folder = tmp_path_factory.mktemp("generations")
    trainer, student = trainer_of(spec(steps=150), reader_of(mails(200)))
    finish(trainer)
    first = export_student(name="small", student=student, fit=FIT, choose=CHOOSE, out=folder / "first")
    warm, successor = trainer_of(spec(steps=40, learning_rate=0.01), reader_of(mails(300, seed=9)))
    successor.module.load_state_dict(student.module.state_dict())
    finish(warm)
    alone = export_student(name="small", student=successor, fit=FIT, choose=CHOOSE, out=folder / "alone")
    near = export_student(name="small", student=successor, fit=FIT, choose=CHOOSE, out=folder / "near", incumbent=first.graph)
    return Generations(successor=successor, first=first, alone=alone, near=near)


def delta(a: Exported, b: Exported) -> bytes:
    before, after = a.weights.read_bytes(), b.weights.read_bytes()
    return make_delta(before, after, [Span(old=0, new=0, length=len(after))])


def test_a_successor_comes_to_its_incumbents_devices_by_fewer_bytes(made: Generations) -> None:
    assert made.near.graph.read_bytes() == made.first.graph.read_bytes()
    assert made.near.codes_kept > 0.5
    assert (made.first.codes_kept, made.alone.codes_kept) == (0.0, 0.0)
    assert len(delta(made.first, made.near)) < 0.6 * len(delta(made.first, made.alone))


def test_it_answers_like_the_successor_that_was_rounded_alone(made: Generations) -> None:
    test = mails(100, seed=4)
    found, expected = (Graph(exported.graph, kind="text").logits(test.inputs) for exported in (made.near, made.alone))
    assert accuracy(found, test.hard_N) >= accuracy(expected, test.hard_N) - 0.02


def test_the_same_module_and_incumbent_give_the_same_bytes(made: Generations, tmp_path: Path) -> None:
    again = export_student(name="small", student=made.successor, fit=FIT, choose=CHOOSE, out=tmp_path, incumbent=made.first.graph)
    assert again.weights.read_bytes() == made.near.weights.read_bytes()
    assert replace(again, graph=made.near.graph, weights=made.near.weights) == made.near


def test_an_incumbent_of_another_graph_changes_nothing(made: Generations, tmp_path: Path) -> None:
    _, student = trainer_of(spec(steps=1, options={"max_bytes": 32, "width": 12, "embedding": 4}), reader_of(mails(100)))
    exported = export_student(name="small", student=student, fit=FIT, choose=CHOOSE, out=tmp_path, incumbent=made.first.graph)
    assert exported.codes_kept == 0.0


@given(st.sampled_from(GRAINS), st.integers(0, 2**32 - 1), st.booleans())
def test_no_code_is_further_from_its_value_than_the_dead_zone(grain: float, seed: int, per_channel: bool) -> None:
    generator = np.random.default_rng(seed)
    scale = generator.uniform(0.01, 0.1, 4 if per_channel else ()).astype(np.float32)
    across = scale.reshape(1, -1) if per_channel else scale
    old = generator.integers(-100, 101, (6, 4), dtype=np.int8)
    floats = (across * np.clip(old + generator.normal(0, 10, (6, 4)), -127, 127)).astype(np.float32)
    incumbent: dict[str, Any] = {"w_quantized": old, "w_scale": scale, "w_zero_point": np.zeros_like(scale, np.int8)}
    rounded = round_toward(model_of(np.zeros_like(old), scale), floats={"w": floats}, incumbent=incumbent, grain=grain)
    codes = trained_tensors(rounded.model)["w_quantized"].astype(float)
    off = np.abs(codes - floats / across)
    zone = DEAD_ZONE * grain if grain > 1 else 0.5
    assert off.max() <= zone + 1e-3
    assert ((np.abs(old - floats / across) > zone - 1e-3) | (codes == old)).all()
    assert rounded.codes_kept == pytest.approx(float((codes == old).mean()))


def model_of(codes: Any, scale: Any) -> Any:
    zero = np.zeros_like(scale, dtype=np.int8)
    node = onnx.helper.make_node("DequantizeLinear", ["w_quantized", "w_scale", "w_zero_point"], ["w"], axis=1)
    tensors = {"w_quantized": codes, "w_scale": scale, "w_zero_point": zero}
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
    output = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, codes.shape)
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], initializers))
