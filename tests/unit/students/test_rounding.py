"""Rounding toward the incumbent: what did not move keeps its code, and the file says the same as its module."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distill.metrics import accuracy
from pipeline.inputs import encode
from pipeline.releases.delta import Span, make_delta
from pipeline.students.export import Exported, export_student
from pipeline.students.graph import Graph
from pipeline.students.importance import by_tensor, fisher_diagonal
from pipeline.students.models import Student
from pipeline.students.rounding import BITS_KEPT, BITS_MOVED, HEADROOM, PRIOR, round_toward, trained_tensors, with_headroom
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


PRICES = st.sampled_from([0.0, *(10.0**power for power in range(-6, 3))])


@st.composite
def students(draw: st.DrawFn) -> dict[str, Any]:
    """A matrix of an incumbent in codes, and where training moved it."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = generator.uniform(0.01, 0.1, 4 if draw(st.booleans()) else ()).astype(np.float32)
    old = generator.integers(-100, 101, (6, 4), dtype=np.int8)
    steps = old + generator.normal(0, 10, (6, 4))
    return {
        "old": old,
        "steps": steps,
        "floats": {"w": steps * scale},
        "incumbent": {"w_quantized": old, "w_scale": scale, "w_zero_point": np.zeros_like(scale, np.int8)},
        "importance": {"w": 2 * generator.exponential(1, (6, 4)) / scale.astype(np.float64) ** 2},
    }


def codes_at(price: float, student: dict[str, Any]) -> Any:
    parts = {name: student[name] for name in ("floats", "incumbent", "importance")}
    model = model_of(np.zeros_like(student["old"]), student["incumbent"]["w_scale"])
    return trained_tensors(round_toward(model, **parts, price=price).model)["w_quantized"].astype(float)


@given(students())
def test_for_nothing_each_code_is_the_nearest(student: dict[str, Any]) -> None:
    assert np.abs(codes_at(0.0, student) - np.clip(student["steps"], -127, 127)).max() <= 0.5 + 1e-3


@given(students(), PRICES)
def test_a_code_moves_only_where_that_is_worth_its_bits(student: dict[str, Any], price: float) -> None:
    codes, old, steps = codes_at(price, student), student["old"], student["steps"]
    matters = student["importance"]["w"]
    per_step = (matters + PRIOR * matters.mean()) / 2 * student["incumbent"]["w_scale"].astype(np.float64) ** 2
    spared = per_step * ((steps - old) ** 2 - (steps - codes) ** 2)
    assert (spared[codes != old] >= price * (BITS_MOVED - BITS_KEPT) - 1e-9).all()
    assert (np.abs(codes) <= 127).all()


def test_what_matters_to_no_answer_stays_where_it_was() -> None:
    old, one = np.zeros((2, 1), dtype=np.int8), np.ones((), np.float32)
    incumbent: dict[str, Any] = {"w_quantized": old, "w_scale": one, "w_zero_point": np.zeros((), np.int8)}
    floats, importance = {"w": np.array([[9.0], [9.0]])}, {"w": np.array([[0.0], [2.0]])}
    rounded = round_toward(model_of(old, one), floats=floats, incumbent=incumbent, importance=importance, price=1.0)
    assert trained_tensors(rounded.model)["w_quantized"].ravel().astype(bool).tolist() == [False, True]
    assert rounded.codes_kept == 0.5


def test_scales_with_headroom_hold_weights_that_grow() -> None:
    codes, scale = np.array([[127, -127, 1, 0]], dtype=np.int8), np.full(4, 0.01, np.float32)
    floats = {"w": codes * scale}
    wide = trained_tensors(with_headroom(model_of(codes, scale), floats=floats))
    assert wide["w_scale"] == pytest.approx(HEADROOM * scale)
    assert wide["w_quantized"].tolist() == [[102, -102, 1, 0]]


def test_importance_says_what_a_change_of_a_weight_does_to_the_answers(made: Generations) -> None:
    student, before = made.successor, [p.detach().clone() for p in made.successor.module.parameters()]
    importance = fisher_diagonal(student, FIT)
    name, weight = "head.bias", dict(student.module.named_parameters())["head.bias"]
    inputs = torch.from_numpy(encode(FIT.inputs, kind="text", width=student.width))
    with torch.no_grad():
        said = student.module(inputs).double().log_softmax(1)
        weight[0] += 0.05
        moved = student.module(inputs).double().log_softmax(1)
        weight[0] -= 0.05
    nats = float((said.exp() * (said - moved)).sum(1).mean())
    assert nats == pytest.approx(importance[name][0] * 0.05**2 / 2, rel=0.2)
    tensors = {"same": before[1].numpy(), "turned": before[1].numpy().T, "other": before[1].numpy() + 1}
    assert set(by_tensor(student, importance, tensors)) == {"same", "turned"}


def model_of(codes: Any, scale: Any) -> Any:
    zero = np.zeros_like(scale, dtype=np.int8)
    node = onnx.helper.make_node("DequantizeLinear", ["w_quantized", "w_scale", "w_zero_point"], ["w"], axis=1)
    tensors = {"w_quantized": codes, "w_scale": scale, "w_zero_point": zero}
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
    output = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, codes.shape)
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], initializers))
