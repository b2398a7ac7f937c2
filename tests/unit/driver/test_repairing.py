"""`kdpipe labels repair` and `retry`: what is bad is labelled again in its place, what was set aside by the next run; nothing unasked."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.config import load
from pipeline.errors import ConfigError, FolderBusyError
from pipeline.labels.holder import LogHeldError
from pipeline.labels.log import LogReader
from pipeline.labels.reader import LabelBatch, LabelReader
from pipeline.labels.store import LocalStore
from pipeline.labels.stored import StoredLabels
from pipeline.labels.verify import verify
from tests.kit.crews import LocalCrew
from tests.kit.holders import OTHER, another_run
from workers.cli import app
from workers.driver import repairing
from workers.driver.cluster import Cluster
from workers.driver.folder import Holder, RunFolder, read_json, write_json
from workers.driver.labels import labelling_of
from workers.driver.repairing import RepairRefusedError
from workers.driver.request import RunRequest
from workers.labelling import Demand

RUN = """
name = "mine"
classes = ["ham", "spam"]
[stream]
path = "stream"
[validation]
path = "stream"
[teacher]
use = "{module}:load"
[labelling]
unit_rows = 16
[students.tiny]
[fleet.populations.phones]
student = "tiny"
devices = 1
"""

TEACHER = """
from pathlib import Path
import numpy as np
class Two:
    classes = ["ham", "spam"]
    fingerprint = "two"
    def log_probs(self, inputs):
        refuse = Path(__file__).with_name("refuse")
        if refuse.exists() and any(refuse.read_text() in text for text in inputs.to_pylist()):
            raise ValueError("refused")
        share = np.array([0.1 + 0.8 * (sum(text.encode()) % 97) / 97 for text in inputs.to_pylist()], dtype=np.float32)
        return np.log(np.stack([share, 1 - share], axis=1))
def load():
    return Two()
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRequest:
    """A run with 40 labels of two files, made without Ray; teachers of a repair need none either."""
    module = f"teacher_{tmp_path.name}"  # an imported module stays
    (tmp_path / f"{module}.py").write_text(TEACHER)
    (tmp_path / "stream").mkdir()
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"mail {name} {row}"}) for row in range(20)]
        (tmp_path / "stream" / f"{name}.jsonl").write_text("\n".join(lines))
    folder = RunFolder(tmp_path / "run")
    described = load(RUN.replace("{module}", module), where="run.toml")
    write_json(folder.origin_file, {"base": str(tmp_path), "name": "run.toml", "run": described.model_dump(mode="json")})
    request = RunRequest.again(folder)
    assert request.run == described
    labelling = labelling_of(request, 1, open_crew=LocalCrew)
    labelling.plan()
    labelling.run(demand=Demand, progress=lambda now: None, stop=threading.Event())
    monkeypatch.setattr(Cluster, "ensure", lambda self: None)
    monkeypatch.setattr(repairing, "ray_crew", LocalCrew)
    return request


def store_of(run: RunRequest) -> LocalStore:
    return LocalStore(run.folder.labels)


def spoil(run: RunRequest, *places: int) -> list[str]:
    """Flip a byte in these commits' shards; their keys."""
    store = store_of(run)
    keys = [LogReader(store).refresh().commits[place].shard.key for place in places]
    for key in keys:
        data = bytearray(store.get(key))
        data[len(data) // 2] ^= 1
        store.put(key, bytes(data))
    return keys


def samples(run: RunRequest) -> list[tuple[Any, ...]]:
    found = StoredLabels(store_of(run)).first(1000)
    return [(s.row, s.sample_id, s.input, s.top, s.weight) for s in found]


def repair(run: RunRequest, *words: str) -> Any:
    return CliRunner().invoke(app, ["labels", "repair", str(run.folder.root), *words], catch_exceptions=False)


def test_what_was_bad_is_as_it_was_and_the_verb_says_what_it_did(run: RunRequest) -> None:
    before, keys = samples(run), spoil(run, 0, 2)
    told = repair(run)
    assert told.exit_code == 0
    assert [line for line in told.stdout.splitlines() if line.startswith("labelled again")] == [f"labelled again: {key}" for key in keys]
    assert "2 shards, the teacher was asked about" in told.stdout
    assert samples(run) == before
    assert verify(store_of(run)).sound
    assert not run.folder.bad_shards_file.exists()


def test_with_nothing_bad_no_teacher_starts(run: RunRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairing, "ray_crew", None)
    assert "nothing is bad" in repair(run).stdout


def test_rows_whose_source_is_gone_stay_until_somebody_gives_them_up(run: RunRequest) -> None:
    before = samples(run)
    part_of = {sample.shard: sample.part for sample in StoredLabels(store_of(run)).first(1000)}
    commits = LogReader(store_of(run)).refresh().commits
    in_b = next(place for place, commit in enumerate(commits) if part_of[commit.shard.key] == "b.jsonl")
    in_a = next(place for place, commit in enumerate(commits) if part_of[commit.shard.key] == "a.jsonl")
    lost, kept = spoil(run, in_b, in_a)
    (run.base / "stream" / "b.jsonl").unlink()

    with pytest.raises(RepairRefusedError, match=r"gone.*--forget"):
        repair(run)
    assert [bad.shard for bad in verify(store_of(run)).bad] == [lost]
    assert kept in LogReader(store_of(run)).refresh().repairs

    told = repair(run, "--forget")
    assert "could not be and weigh nothing from now on" in told.stdout
    assert verify(store_of(run)).sound
    after = samples(run)
    assert [sample[0] for sample in after] == [sample[0] for sample in before]
    forgotten = {sample[0] for sample in after if sample[-1] == 0}
    assert forgotten == {row for row, *_ in before if commits[in_b].start <= row < commits[in_b].stop}


def test_a_source_of_which_nothing_is_left_is_forgotten_too(run: RunRequest) -> None:
    spoil(run, 0)
    for path in (run.base / "stream").iterdir():
        path.unlink()
    (run.base / "stream").rmdir()
    with pytest.raises(RepairRefusedError, match=r"stream.*--forget"):
        repair(run)
    assert repair(run, "--forget").exit_code == 0
    assert verify(store_of(run)).sound


def test_a_row_that_the_teacher_now_refuses_is_no_reason_to_give_it_up(run: RunRequest) -> None:
    spoil(run, 0)
    (run.base / "refuse").touch()
    with pytest.raises(RepairRefusedError, match="ValueError: refused"):
        repair(run)


def test_a_live_run_repairs_for_itself(run: RunRequest) -> None:
    spoil(run, 0)
    with Holder(run.folder), pytest.raises(FolderBusyError):
        repair(run)


def test_labels_that_a_live_run_of_another_folder_writes_are_left_to_it(run: RunRequest) -> None:
    keys = spoil(run, 0)
    origin = read_json(run.folder.origin_file)
    origin["run"]["labelling"]["store"] = str(run.folder.labels.rename(run.base / "elsewhere"))
    write_json(run.folder.origin_file, origin)
    store = LocalStore(run.base / "elsewhere")
    term = LogReader(store).refresh().term
    with another_run(store), pytest.raises(LogHeldError, match=OTHER):
        repair(run)
    assert LogReader(store).refresh().term == term, "the live run is not fenced"
    assert f"labelled again: {keys[0]}" in repair(run).stdout


def labels(run: RunRequest, *words: str) -> Any:
    return CliRunner().invoke(app, ["labels", words[0], str(run.folder.root), *words[1:]], catch_exceptions=False)


def label(run: RunRequest, generation: int) -> None:
    labelling = labelling_of(run, generation, open_crew=LocalCrew)
    labelling.plan()
    labelling.run(demand=Demand, progress=lambda now: None, stop=threading.Event())


@pytest.fixture
def set_aside(run: RunRequest) -> RunRequest:
    """In generation 2 the teacher refused all of one file, and labelled another."""
    (run.base / "stream" / "c.jsonl").write_text("\n".join(json.dumps({"text": f"refused {row}"}) for row in range(3)))
    (run.base / "stream" / "d.jsonl").write_text("\n".join(json.dumps({"text": f"fine {row}"}) for row in range(10)))
    (run.base / "refuse").write_text("refused")
    label(run, 2)
    assert LogReader(store_of(run)).refresh().rows_quarantined == 3
    (run.base / "refuse").unlink()
    return run


def test_quarantined_rows_are_labelled_by_the_next_generation_once_somebody_asks(set_aside: RunRequest) -> None:
    before = samples(set_aside)
    windows = list(LogReader(store_of(set_aside)).refresh().windows)
    assert labels(set_aside, "retry", "--reason", "nothing like it").stdout == "0 rows are work again\n"
    assert LogReader(store_of(set_aside)).refresh().rows_left == 0
    told = labels(set_aside, "retry", "--reason", "refused").stdout
    assert told == "3 rows are work again; the next `kdpipe run` asks the teacher about them, in generation 3\n"
    assert labelling_of(set_aside, 3).preview().rows_left == 3, "so that the next run opens a generation"
    label(set_aside, 3)
    state = LogReader(store_of(set_aside)).refresh()
    assert (state.rows_left, state.rows_quarantined) == (0, 0)
    assert list(state.windows)[: len(windows)] == windows
    assert samples(set_aside)[: len(before)] == before
    assert sorted(sample[2] for sample in samples(set_aside)[len(before) :]) == ["refused 0", "refused 1", "refused 2"]
    assert verify(store_of(set_aside)).sound
    assert labels(set_aside, "retry", "--all").stdout == "0 rows are work again\n"


def test_rows_whose_file_is_gone_stay_quarantined_and_stop_no_run(set_aside: RunRequest) -> None:
    (set_aside.base / "stream" / "c.jsonl").unlink()
    told = labels(set_aside, "retry", "--all").stdout
    assert "3 stay quarantined: c.jsonl is not there" in told
    assert labelling_of(set_aside, 3).plan().rows_left == 0


def test_retry_wants_to_know_which_rows(set_aside: RunRequest) -> None:
    with pytest.raises(ConfigError, match="one of --row, --reason, --all"):
        labels(set_aside, "retry")
    with pytest.raises(ConfigError, match="row 0 is not quarantined"):
        labels(set_aside, "retry", "--row", "0")
    first = next(iter(LogReader(store_of(set_aside)).refresh().set_aside))[0]
    assert json.loads(labels(set_aside, "retry", "--row", str(first), "--json").stdout) == {"rows": 1, "gone": {}, "generation": 3}


def test_a_live_run_is_not_told_to_retry(set_aside: RunRequest) -> None:
    with Holder(set_aside.folder), pytest.raises(FolderBusyError):
        labels(set_aside, "retry", "--all")


def replayed(run: RunRequest, generation: int) -> list[tuple[str, float]]:
    """(text, weight) of a replay, in its order."""
    reader = LabelReader(store_of(run), generation=generation, batch=1000, seed=1)
    batch = reader.read(replace(reader.start(), epoch=1))
    assert isinstance(batch, LabelBatch)
    return list(zip(batch.inputs.to_pylist(), batch.weight_B.tolist(), strict=True))


def test_of_a_file_that_was_rewritten_with_one_row_more_one_row_is_asked_about_and_each_text_counts_once(run: RunRequest) -> None:
    first = replayed(run, 1)
    texts = [f"mail a {row}" for row in range(20)]
    (run.base / "stream" / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ["new", *texts]))
    labelling = labelling_of(run, 2, open_crew=LocalCrew)
    assert labelling.plan().rows_left == 21
    assert labelling.run(demand=Demand, progress=lambda now: None, stop=threading.Event()).teacher_calls == 1
    second = replayed(run, 2)
    assert sorted(text for text, weight in second if weight) == sorted(["new", *texts, *(f"mail b {row}" for row in range(20))])
    assert len(second) == 61, "positions stay"
    assert replayed(run, 1) == first, "a generation that is over keeps what it had"
    assert verify(store_of(run)).sound
    (run.base / "stream" / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    label(run, 3)
    assert sorted(text for text, weight in replayed(run, 3) if weight) == sorted(text for text, _ in first), "back as it was"
    assert replayed(run, 2) == second
