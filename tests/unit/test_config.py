"""The run file: what it accepts, how it refuses, and that docs/run-file.md says what the models say."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipeline import budgets, config
from pipeline.config import load
from pipeline.errors import ConfigError, UnknownKeyError
from tests.kit.run_file_page import PAGE, render

MINE = """
name = "mine"
classes = ["ham", "spam"]
positive = "spam"
prepare = {use = "spam"}
stream = {path = "stream.jsonl"}
labelled = {path = "labelled.jsonl"}
validation = {path = "validation.jsonl"}
test = {path = "test.jsonl"}
teacher = {use = "mine:teacher"}
labelling = {unit_rows = 64}
students = {small = {steps = 100}}
gate = {margin = 0.02}
fleet = {soak_s = 1, populations = {desk = {student = "small"}}}
ray = {cpus = 2}
metrics = {port = 9464}
"""
SECTIONS: dict[str, type[BaseModel]] = {
    "": config.RunFile,
    "prepare.": config.PrepareSection,
    "stream.": config.SourceSection,
    "labelled.": config.SourceSection,
    "validation.": config.SourceSection,
    "test.": config.SourceSection,
    "teacher.": config.TeacherSection,
    "labelling.": config.LabellingSection,
    "students.small.": config.StudentSection,
    "gate.": budgets.GateSection,
    "fleet.": config.FleetSection,
    "fleet.ask.": config.AskSection,
    "fleet.populations.desk.": config.PopulationSection,
    "ray.": config.RaySection,
    "metrics.": config.MetricsSection,
}
TYPED = {f"{path}{name}" for path, model in SECTIONS.items() for name in model.model_fields if name != "options"}
"""Every key that takes only some values: all but the tables that go to a user's callable as they are."""

keys = st.from_regex(r"[a-z][a-z0-9_]{0,15}", fullmatch=True)


def refusal(*overrides: str, text: str = MINE) -> ConfigError:
    """The error that `load` raises, after a trip through pickle."""
    with pytest.raises(ConfigError) as caught:
        load(text, where="mine.toml", overrides=overrides)
    copied: ConfigError = pickle.loads(pickle.dumps(caught.value))
    assert type(copied) is type(caught.value)
    assert str(copied) == str(caught.value)
    assert copied.exit_code == 2
    return copied


def test_the_page_of_the_run_file_is_what_the_models_say():
    assert PAGE.read_text() == render(), "docs/run-file.md is not what pipeline/config.py says; `make docs` writes it anew"


def test_every_key_says_what_it_means():
    assert [line for line in PAGE.read_text().splitlines() if line.endswith("|  |")] == []


def test_a_run_file_is_read_and_what_it_leaves_out_has_defaults():
    run = load(MINE, where="mine.toml")
    assert (run.name, run.classes, run.students["small"].steps) == ("mine", ("ham", "spam"), 100)
    assert run.fleet.populations["desk"].devices == 3
    assert not run.fleet.ask.teacher  # what a device is asked stays on it, unless the operator says otherwise
    assert run.ray.address is None


def test_what_was_read_cannot_be_changed():
    run = load(MINE, where="mine.toml")
    with pytest.raises(ValidationError, match="frozen"):
        run.name = "yours"  # type: ignore[misc]


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_anywhere_names_the_known_ones(section: str):
    error = refusal(f"{section}no_such_key=1")
    assert isinstance(error, UnknownKeyError)
    assert "'no_such_key'" in str(error)
    assert str(error).endswith("; docs/run-file.md describes every key")
    for known in SECTIONS[section].model_fields:
        assert known in str(error), f"{known} is a key of [{section}] and not named"


@given(key=keys, section=st.sampled_from(sorted(SECTIONS)))
def test_no_unknown_key_is_ever_accepted(key: str, section: str):
    if key not in SECTIONS[section].model_fields:
        assert isinstance(refusal(f"{section}{key}=1"), UnknownKeyError)


@pytest.mark.parametrize("key", sorted(TYPED))
@pytest.mark.parametrize("value", ["1979-05-27T07:32:00Z", "[[1]]", "[{no_such_key = []}]"])
def test_a_value_of_another_type_says_where_and_what_was_found(key: str, value: str):
    error = refusal(f"{key}={value}")
    assert f"mine.toml.{key}" in str(error)
    assert "; expected " in str(error)
    assert "should" not in str(error)
    assert str(error).endswith("; docs/run-file.md describes every key")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("students.small.steps=many", "found 'many'; expected a valid integer"),
        ("students.small.steps=0", "found 0; expected a number greater than or equal to 1"),
        ("name=../escape", "expected a string that matches pattern"),
        ('classes=["only"]', "expected a tuple with at least 2 items"),
        ("version=2", "expected 1"),
        ("students.small.loss=kl", "found 'kl'; expected a table, such as { kl = 1.0 }"),
        ("students.small.loss=3", "found 3; expected a table, such as { NAME = VALUE }"),
        ("stream=samples.csv", "found 'samples.csv'; expected a section, [stream]"),
        ("gate.accuracy_min=95", "found 95; expected a share of at most 1: 0.95 for 95 %"),
    ],
)
def test_what_was_expected_reads_as_a_sentence(override: str, says: str):
    assert says in str(refusal(override))


@pytest.mark.parametrize("name", sorted(config.StudentSection.model_fields))
def test_a_student_may_be_named_like_a_key_and_still_gets_its_known_keys_named(name: str):
    error = refusal(f"students.{name}.no_such_key=1")
    assert isinstance(error, UnknownKeyError)
    assert "learning_rate" in str(error)


@pytest.mark.parametrize(
    "override",
    ['students.small.steps="100"', "students.small.steps=true", 'gate.margin="0.1"', "name=7", 'fleet.waves=["0.5", 1.0]'],
)
def test_a_value_is_never_bent_into_another_type(override: str):
    assert str(refusal(override)).startswith(f"mine.toml.{override.partition('=')[0]}")


@pytest.mark.parametrize(
    "override",
    ["agreement_min=95", "accuracy_min=nan", "margin=5.0", "ece_max=-0.1", "latency_p99_ms=-1", "latency_p50_ms=inf", "size_max_bytes=0"],
)
def test_a_budget_that_nothing_or_everything_meets_is_refused(override: str):
    assert str(refusal(f"gate.{override}")).startswith(f"mine.toml.gate.{override.partition('=')[0]}: found ")


@pytest.mark.parametrize(
    "key", ["temperature", "loss.kl", "weighting.confidence", "loss_options.dkd.beta", "weighting_options.confidence.least"]
)
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_what_is_not_finite_is_no_number(key: str, number: str):
    assert f"found {number}; expected a finite number" in str(refusal(f"students.small.{key}={number}"))


@pytest.mark.parametrize("key", ["auc_min", "recall_min"])
def test_a_budget_on_a_class_needs_the_class(key: str):
    assert f"gate.{key} needs `positive`" in str(refusal(f"gate.{key}=0.5", text=MINE.replace('positive = "spam"', "")))


@given(text=st.text(max_size=200))
def test_any_text_is_a_run_file_or_one_clear_error(text: str):
    refusal(text=text)


@given(override=st.text(max_size=60))
def test_any_override_is_taken_or_one_clear_error(override: str):
    try:
        load(MINE, where="mine.toml", overrides=[override])
    except ConfigError:
        refusal(override)


@given(steps=st.integers(1, 10**9), rate=st.floats(1e-9, 1.0), loss=st.dictionaries(keys, st.floats(0, 10), min_size=1))
def test_an_override_is_what_the_file_would_have_said(steps: int, rate: float, loss: dict[str, float]):
    table = "{" + ", ".join(f"{name} = {weight!r}" for name, weight in loss.items()) + "}"
    run = load(
        MINE,
        where="mine.toml",
        overrides=[f"students.small.steps={steps}", f"students.small.learning_rate={rate!r}", f"students.small.loss={table}"],
    )
    assert run.students["small"].steps == steps
    assert run.students["small"].learning_rate == rate
    assert run.students["small"].loss == loss


def test_an_override_with_a_bare_word_is_a_string_and_the_last_one_wins():
    assert load(MINE, where="mine.toml", overrides=["name=other", "name=third"]).name == "third"


def test_an_override_that_goes_through_a_value_is_refused():
    assert "'name' is a value" in str(refusal("name.below=1"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("positive=eggs", "'eggs' must be one of exactly two classes"),
        ('classes=["a", "b", "a"]', "classes repeat"),
        ('classes=["only"]', "at least 2"),
        ("fleet.populations.desk.student=big", "'big' is no student; known: small"),
        ("releases.big.security_floor=3", "releases.big is no student; known: small"),
        ("fleet.waves=[0.5]", "waves must grow from above 0 to 1.0"),
        ("fleet.waves=[0.5, 0.2, 1.0]", "waves must grow"),
        ("fleet.waves=[]", "waves must grow"),
        ("teacher.workers_min=3", "workers_min 3 is above workers_max 1"),
        ("labelling.lead_max=100", "could stall: it must be at least 2 windows"),
        ("stream={}", "needs `path`"),
        ("students={}", "at least 1"),
        ("version=2", "1"),
        ("name=../escape", "pattern"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_reason(override: str, says: str):
    assert says in str(refusal(override))


@given(window=st.integers(1, 10**6), unit=st.integers(1, 10**5), actors=st.integers(1, 64), lead=st.integers(1, 10**7))
def test_a_lead_that_could_stall_never_passes(window: int, unit: int, actors: int, lead: int):
    overrides = [
        f"labelling.window_rows={window}",
        f"labelling.unit_rows={unit}",
        f"teacher.workers_max={actors}",
        f"labelling.lead_max={lead}",
    ]
    if lead < 2 * window + 2 * actors * unit:
        assert "could stall" in str(refusal(*overrides))
    else:
        assert load(MINE, where="mine.toml", overrides=overrides).labelling.lead_max == lead


def test_the_first_of_several_mistakes_is_told_in_one_line():
    assert "\n" not in str(refusal('students.small.steps="""a\nb"""'))
