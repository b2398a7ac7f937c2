"""The gate: what ships, what keeps the incumbent, and what it says."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.budgets import GateSection
from pipeline.distill.losses import NO_LABEL
from pipeline.students.control import ControlUnlabelledError, train_control, train_in_memory
from pipeline.students.evaluation import Candidate, evaluate
from pipeline.students.export import export_student
from pipeline.students.gate import judge
from pipeline.students.samples import Samples
from tests.kit.students import CLASSES, mails, spec, weights
from workers.footprint import FootprintUnknownError, memory_of

OPEN = GateSection(agreement_min=None)


def ticking() -> Callable[[], float]:
    """A clock that goes on by a millisecond a look."""
    seconds = iter(i / 1000 for i in range(10_000_000))
    return lambda: next(seconds)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Candidate]:
    """A good student, a mediocre one, and one that learnt the opposite."""
    made = {}
    for name, steps, samples in (
        ("good", 200, mails(300)),
        ("mediocre", 15, mails(40)),
        ("wrong", 120, mails(200, share_right=0.0)),
    ):
        student = train_in_memory(spec(steps=steps), samples)
        out = tmp_path_factory.mktemp(name)
        exported = export_student(name=name, student=student, fit=mails(60, seed=2), choose=mails(60, seed=3), out=out, budget=1.0)
        made[name] = Candidate(graph=exported.graph, kind="text", temperature=exported.temperature)
    return made


def judged(candidate: Candidate, incumbent: Candidate | None, samples: Samples, section: GateSection = OPEN, **options: Any):
    return judge(
        student="small",
        candidate=candidate,
        incumbent=incumbent,
        gate=samples,
        section=section,
        classes=CLASSES,
        positive="spam",
        clock=ticking(),
        **options,
    )


def replace_in(section: GateSection, **changes: Any) -> GateSection:
    return section.model_copy(update=changes)


def line(report, name: str):
    return next(line for line in report.lines if line.name == name)


def test_a_first_student_that_meets_its_budgets_ships(files: dict[str, Candidate]) -> None:
    report = judged(files["good"], None, mails(200, seed=5), GateSection(accuracy_min=0.9, agreement_min=0.9, auc_min=0.95))
    assert report.ships
    assert report.basis == "labels"
    assert report.summary == "ships"
    assert report.incumbent is None
    assert report.candidate.accuracy > 0.9


@pytest.fixture
def half_no_number(tmp_path: Path) -> Candidate:
    """Answers NaN wherever the bytes of a text add up to an even number, else a tie."""
    nodes = [
        helper.make_node("Cast", ["input"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["f", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mod", ["sum", "two"], ["odd"], fmod=1),
        helper.make_node("Sub", ["odd", "half"], ["signed"]),
        helper.make_node("Sqrt", ["signed"], ["root"]),
        helper.make_node("Concat", ["root", "root"], ["logits"], axis=1),
    ]
    constants = {"axis": np.array([1]), "two": np.array([2], np.float32), "half": np.array([0.5], np.float32)}
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("input", TensorProto.UINT8, ["batch", 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "half.onnx")
    return Candidate(graph=tmp_path / "half.onnx", kind="text", temperature=1.0)


def test_a_file_that_answers_what_is_no_number_never_ships_and_is_never_right(half_no_number: Candidate) -> None:
    """The first class of NaN is class 0, which all of these samples have."""
    samples = replace(mails(200, seed=5), hard_N=np.zeros(200, dtype=np.int64))
    report = judged(half_no_number, None, samples)
    assert not report.ships
    assert re.search(r"ships nothing: \d+ of 200 answers are not finite, the first of them to sample mail-5:\d", report.summary)
    answered = line(report, "finite answers").value
    assert 0 < answered < 200
    assert report.candidate.accuracy == answered / 200
    assert json.dumps(report.to_json(), allow_nan=False)


def test_a_better_student_ships_and_the_worse_one_keeps_the_incumbent_with_line_and_figure(files: dict[str, Candidate]) -> None:
    samples = mails(200, seed=5)
    assert judged(files["good"], files["mediocre"], samples).ships
    report = judged(files["mediocre"], files["good"], samples)
    assert not report.ships
    assert not line(report, "not inferior to the incumbent").passed
    assert not line(report, "better by estimate").passed
    assert report.summary.startswith("keeps the incumbent: may be 0.")
    assert "worse than the incumbent (95 % bound), margin 0.0100" in report.summary


def test_the_same_file_again_is_not_better(files: dict[str, Candidate]) -> None:
    report = judged(files["good"], files["good"], mails(200, seed=5))
    assert not report.ships
    assert line(report, "better by estimate").says.startswith("not better: +0.0000 against the incumbent (0 samples won, 0 lost, of 200)")


def test_an_incumbent_that_knows_the_classes_in_another_order_is_read_in_ours(files: dict[str, Candidate]) -> None:
    samples = mails(200, seed=5)
    turned = replace(files["wrong"], classes=CLASSES[::-1])
    report = judged(files["mediocre"], turned, samples)
    assert report.incumbent.accuracy == pytest.approx(1 - judged(files["wrong"], None, samples).candidate.accuracy)
    assert report.incumbent.accuracy > report.candidate.accuracy
    assert not report.ships


def test_an_incumbent_of_other_classes_is_compared_with_nothing_and_the_budgets_decide(files: dict[str, Candidate]) -> None:
    foreign = replace(files["good"], classes=("ham", "eggs", "toast", "jam", "tea"))
    met, missed = (judged(files["wrong"], foreign, mails(100, seed=5), replace_in(OPEN, accuracy_min=least)) for least in (0.0, 1.0))
    why = "compared with nothing: the incumbent's classes are others, without 'spam', with 'eggs' 'toast' 'jam' and 1 more"
    assert met.ships
    assert met.summary == f"ships ({why})"
    assert met.incumbent is None
    said = line(met, "not inferior to the incumbent")
    assert (said.passed, said.says) == (None, f"{why}; the budgets decide alone")
    assert missed.summary.startswith("keeps the incumbent: accuracy ")
    assert missed.summary.endswith(f"({why})")


def test_an_incumbent_that_does_not_eat_the_samples_is_compared_with_nothing(tmp_path: Path, files: dict[str, Candidate]) -> None:
    """The run file's inputs have changed since."""
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("input", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["logits"])], "numbers", shapes[:1], shapes[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "numbers.onnx")
    report = judged(files["good"], Candidate(graph=tmp_path / "numbers.onnx", kind="floats", temperature=1.0), mails(50, seed=5))
    assert report.ships
    assert "compared with nothing: the incumbent does not eat these samples (" in report.summary


def test_samples_too_few_to_let_any_successor_pass_are_told_with_how_many_would_do(files: dict[str, Candidate]) -> None:
    few, enough = (line(judged(files["good"], files["good"], mails(n, seed=5)), "not inferior to the incumbent") for n in (60, 400))
    found = re.search(r"with 60 samples identical answers would not pass; (\d+) do, or raise `gate.margin`$", few.says)
    assert found is not None
    assert 60 < int(found[1]) <= 400
    assert (enough.passed, enough.says) == (True, "95 % bound")


def test_mcnemars_p_is_shown_and_decides_nothing(files: dict[str, Candidate]) -> None:
    report = judged(files["good"], files["mediocre"], mails(200, seed=5))
    shown = line(report, "McNemar's exact p")
    assert shown.passed is None
    assert shown.value is not None
    assert 0 <= shown.value <= 1


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"accuracy_min": 1.0}, "accuracy .* below its budget 1"),
        ({"auc_min": 1.0}, "auc .* below its budget"),
        ({"agreement_min": 1.0}, "agreement .* below its budget"),
        ({"recall_min": 1.0}, "recall at 1% false positives .* below its budget"),
        ({"ece_max": 0.001}, "calibration error .* above its budget 0.001"),
        ({"latency_p50_ms": 0.25}, "latency_p50_ms 1 is 0.75 above its budget 0.25"),
        ({"latency_p99_ms": 0.5}, "latency_p99_ms 1 is 0.5 above its budget 0.5"),
        ({"size_max_bytes": 100}, "size_bytes .* above its budget 100"),
        ({"memory_max_bytes": 100}, "memory_bytes 2,000 is 1,900 above its budget 100"),
    ],
)
def test_each_budget_that_is_not_met_ships_nothing_and_is_named_with_its_distance(
    files: dict[str, Candidate], budget: dict[str, float], says: str
) -> None:
    keys: dict[str, Any] = {"agreement_min": None}
    report = judged(files["wrong"], None, mails(100, seed=5), GateSection(**(keys | budget)), memory_bytes=2000)
    assert not report.ships
    assert sum(line.passed is False for line in report.lines) == 1
    assert re.search(f"ships nothing: {says}", report.summary), report.summary


def test_without_labels_the_gate_goes_by_agreement_and_says_so(files: dict[str, Candidate]) -> None:
    report = judged(files["good"], files["mediocre"], mails(200, seed=5, hard=False), GateSection(agreement_min=0.9))
    assert report.ships
    assert report.basis == "agreement with the teacher"
    assert "no labels: judged by agreement with the teacher alone" in report.summary
    assert line(report, "accuracy").value is None
    assert np.isnan(report.candidate.auc)
    with pytest.raises(ValueError, match="need the teacher's answers"):
        judged(files["good"], None, mails(20, hard=False, teacher=False))


def test_a_sample_without_a_label_costs_the_others_nothing_and_is_said(files: dict[str, Candidate]) -> None:
    whole = mails(200, seed=5)
    some = replace(whole, hard_N=np.where(np.arange(200) < 2, NO_LABEL, whole.hard_N))
    report, rest = (judged(files["good"], files["mediocre"], samples) for samples in (some, whole.take(range(2, 200))))
    assert report.ships
    assert report.basis == "labels"
    assert report.summary == "ships (2 of 200 samples have no label: what is right is counted on the others)"
    for name in ("accuracy", "auc", "better by estimate", "not inferior to the incumbent"):
        assert line(report, name) == line(rest, name)
    assert report.breakdown == rest.breakdown


def test_a_budget_of_memory_that_nobody_measured_is_not_met(files: dict[str, Candidate]) -> None:
    report = judged(files["good"], None, mails(50, seed=5), GateSection(memory_max_bytes=10**9))
    assert "memory_bytes has a budget of 1,000,000,000, and nothing measured it" in report.summary


def test_a_budget_on_labels_fails_where_there_are_none(files: dict[str, Candidate]) -> None:
    report = judged(files["good"], None, mails(50, seed=5, hard=False), GateSection(accuracy_min=0.5))
    assert not report.ships
    assert "accuracy has a budget of 0.5, and the samples have no labels to measure it by" in report.summary


def test_agreement_with_a_wrong_teacher_is_not_accuracy(files: dict[str, Candidate]) -> None:
    """Labels rule where they exist: a file that agrees with a teacher that is always wrong is judged as wrong."""
    report = judged(files["wrong"], files["good"], mails(200, seed=5, share_right=0.0))
    assert report.candidate.agreement > 0.9
    assert report.candidate.accuracy < 0.1
    assert not report.ships


def test_a_report_is_json_and_prints_a_line_a_figure(files: dict[str, Candidate]) -> None:
    report = judged(files["good"], files["mediocre"], mails(60, seed=5, hard=False), memory_bytes=12345)
    tree = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (tree["version"], tree["ships"], tree["summary"]) == (1, report.ships, report.summary)
    assert [line["name"] for line in tree["lines"]] == [line.name for line in report.lines]
    assert tree["candidate"]["accuracy"] is None, "no labels: no figure, and never NaN, which is no JSON"
    assert tree["incumbent"]["agreement"] == report.incumbent.agreement
    printed = report.table().splitlines()
    assert len(printed) == len(report.lines) + 2
    assert any("memory_bytes" in text and "12,345" in text for text in printed)


def test_an_evaluation_reads_the_clock_it_was_given(files: dict[str, Candidate]) -> None:
    found = evaluate(files["good"], mails(30, seed=5), classes=CLASSES, positive="spam", clock=ticking(), latency_calls=50)
    assert (found.latency_p50_ms, found.latency_p99_ms) == (pytest.approx(1), pytest.approx(1))
    assert found.worst_class in CLASSES
    assert found.worst_class_recall <= found.accuracy
    assert found.size_bytes == sum(path.stat().st_size for path in files["good"].graph.parent.iterdir())


def test_more_than_two_classes_have_no_auc_and_nothing_else_changes(files: dict[str, Candidate]) -> None:
    found = evaluate(files["good"], mails(30, seed=5), classes=CLASSES, positive=None, clock=ticking())
    assert np.isnan(found.auc)
    assert found.accuracy > 0.8


def test_the_control_is_deterministic_and_learns_from_hard_labels_alone() -> None:
    labelled = mails(80, share_right=0.0)  # a teacher that is always wrong: the control must not hear it
    first, again = train_control(spec(steps=120), labelled), train_control(spec(steps=120), labelled)
    assert all((a == b).all() for a, b in zip(weights(first), weights(again), strict=True))
    unheard = train_control(spec(steps=120), replace(labelled, teacher_NK=None))
    assert all((a == b).all() for a, b in zip(weights(first), weights(unheard), strict=True))
    with pytest.raises(ControlUnlabelledError):
        train_control(spec(), mails(20, hard=False))


def test_the_control_leaves_out_rows_without_a_label() -> None:
    samples = mails(60)
    some = replace(samples, hard_N=np.where(np.arange(60) < 30, samples.hard_N, NO_LABEL))
    first, second = train_control(spec(), some), train_control(spec(), samples.take(range(30)))
    assert all((a == b).all() for a, b in zip(weights(first), weights(second), strict=True))


def test_memory_is_that_of_a_process_that_runs_the_file(files: dict[str, Candidate], tmp_path: Path) -> None:
    assert 10 * 2**20 < memory_of(files["good"].graph, kind="text") < 500 * 2**20
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(FootprintUnknownError, match="expected a graph that onnxruntime"):
        memory_of(tmp_path / "graph.onnx", kind="text")
