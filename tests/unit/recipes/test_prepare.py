"""Preparing a recipe: once, the same files for the same seed, and a crash at any write is made good by the next try."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config import RunFile, load
from pipeline.distill.paired import Z_ONE_SIDED_95, Pairs, newcombe_interval
from pipeline.errors import ConfigError
from pipeline.files import write_atomic
from pipeline.recipes import OWN, RECIPES, PreparedOtherwiseError, digits, prepare_run, recipe_text, spam, starting_files
from pipeline.recipes import prepared as prepared_module
from pipeline.recipes import tables as tables_module
from pipeline.recipes.spam.corpus import CorpusUnusableError, clean, load_corpus, read_mails
from pipeline.sources import open_source
from pipeline.students.samples import read_validation
from pipeline.teachers import load_teacher
from pipeline.teachers import sklearn as sklearn_module
from tests.kit.samples import made_up_mails, write_mail_archive

SMALL = {"labelled": 80, "fit": 20, "choose": 30, "gate": 30, "test": 40, "feeds": 3}


def test_an_equal_successor_ships_by_the_margin_of_the_project_to_start_from(tmp_path: Path) -> None:
    for name, content in starting_files(OWN).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    run = load((tmp_path / "run.toml").read_text(), where="run.toml")
    judged = len(read_validation(open_source(run.validation, base=tmp_path), classes=run.classes).gate)
    assert judged == 78, "as the run file says"
    for right in range(judged // 2, judged + 1):
        low, _ = newcombe_interval(Pairs(both=right, candidate=0, incumbent=0, neither=judged - right), z=Z_ONE_SIDED_95)
        assert low > -run.gate.margin


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mail_archive(tmp_path_factory.mktemp("package") / "mails.tgz", made_up_mails(320))


class Fetching:
    """Hands out the archive and counts how often it was asked."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.calls = archive, 0

    def __call__(self, package: str, version: str, sha256: str) -> Path:
        self.calls += 1
        return self.archive


def prepare_spam(folder: Path, fetch: Fetching, *, seed: int = 1, options: Any = SMALL) -> list[str]:
    said: list[str] = []
    spam.prepare(folder=folder, cache=fetch.archive.parent, seed=seed, options=options, say=said.append, fetch=fetch)
    return said


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_spam_is_prepared_once_and_then_asks_for_nothing(archive: Path, tmp_path: Path) -> None:
    fetch = Fetching(archive)
    prepare_spam(tmp_path, fetch)
    before = digests(tmp_path)
    assert set(before) == {
        *(f"data/{name}" for name in ("labelled.parquet", "validation.parquet", "test.parquet", "prepared.json")),
        *(f"feeds/feed-{number}.parquet" for number in (1, 2, 3)),
        "inbox/feed-1.parquet",
        *(f"teacher/{name}" for name in ("model.skops", "teacher.json", "metrics.json")),
    }
    assert prepare_spam(tmp_path, fetch) == [f"{tmp_path} is prepared"]
    assert fetch.calls == 1
    assert digests(tmp_path) == before


def test_the_same_seed_makes_the_same_splits_in_any_folder(archive: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare_spam(tmp_path / name, Fetching(archive))
    one, other = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert {name for name in one if one[name] != other[name]} <= {"teacher/model.skops", "teacher/metrics.json"}


def test_other_inputs_in_the_same_folder_are_refused_with_both_values(archive: Path, tmp_path: Path) -> None:
    fetch = Fetching(archive)
    prepare_spam(tmp_path, fetch)
    before = digests(tmp_path)
    with pytest.raises(PreparedOtherwiseError, match=r"prepared with seed 1, the run file now says seed 2; .*another --dir") as caught:
        prepare_spam(tmp_path, fetch, seed=2)
    assert caught.value.exit_code == 2
    assert digests(tmp_path) == before


def test_a_crash_at_any_write_is_made_good_by_the_next_try(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    def crashing_after(writes: int) -> Any:
        left = [writes]

        def write(path: Path, data: bytes, **kwargs: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            real(path, data, **kwargs)

        return write

    real = write_atomic
    prepare_spam(tmp_path / "clean", Fetching(archive))
    wanted = digests(tmp_path / "clean")
    folder, crashes = tmp_path / "crashing", 0
    for writes in range(20):  # one write further each time, in the folder that the crash before left
        with monkeypatch.context() as patched:
            write = crashing_after(writes)
            for module in (tables_module, prepared_module, sklearn_module, spam):
                patched.setattr(module, "write_atomic", write)
            try:
                prepare_spam(folder, Fetching(archive))
                break
            except Crash:
                crashes += 1
        assert not (folder / "data" / "prepared.json").exists()
    found = digests(folder)
    assert {name for name in wanted if wanted[name] != found.get(name)} <= {"teacher/model.skops", "teacher/metrics.json"}
    assert set(found) == set(wanted)
    assert crashes == len(wanted) - 1, "all but the linked feed is written"


def test_a_feed_of_a_try_with_another_seed_that_did_not_end_is_replaced(archive: Path, tmp_path: Path) -> None:
    prepare_spam(tmp_path, Fetching(archive), seed=2)
    (tmp_path / "data" / "prepared.json").unlink()
    prepare_spam(tmp_path, Fetching(archive), seed=1)
    assert (tmp_path / "inbox" / "feed-1.parquet").read_bytes() == (tmp_path / "feeds" / "feed-1.parquet").read_bytes()


def test_an_unknown_option_names_the_known(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'labeled'; expected one of: choose, feeds, first_feed_share"):
        prepare_spam(tmp_path, Fetching(archive), options={"labeled": 5})
    with pytest.raises(ConfigError, match="unknown key 'labeled'"):
        digits.prepare(folder=tmp_path, cache=tmp_path, seed=1, options={"labeled": 5}, say=print, fetch=Fetching(archive))


def test_cleaning_drops_equal_texts_and_texts_filed_as_both() -> None:
    mail = "Subject: {}\n\nwords of this mail\n"
    mails = [("spam-1", "2", mail.format("a")), ("spam-1", "1", mail.format("a")), ("spam-2", "1", mail.format("b"))]
    mails += [("easy-ham-1", "1", mail.format("b")), ("easy-ham-1", "2", mail.format("c")), ("easy-ham-1", "3", "")]
    table = clean(iter(mails))
    says = table.schema.metadata[b"left_out"].decode()
    assert says == "2 of 6 e-mails; left out: 1 with the text of another, 1 empty, 2 filed both as spam and as wanted"
    assert table.select(["mail", "label"]).to_pylist() == [{"mail": "easy-ham-1/2", "label": "ham"}, {"mail": "spam-1/1", "label": "spam"}]


def test_the_cleaned_corpus_is_kept_and_made_again_when_damaged(archive: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = load_corpus(archive, tmp_path, say=said.append)
    assert load_corpus(tmp_path / "gone.tgz", tmp_path, say=said.append).equals(first)
    cleaning, *left_out = said
    assert cleaning.startswith("cleaning")
    assert left_out == [left_out[0]] * 2
    assert left_out[0].startswith(f"{first.num_rows} of 320 e-mails; left out: {320 - first.num_rows} with the text of another, 0 empty")
    (kept,) = (tmp_path / "spam").glob("corpus-*.parquet")
    kept.write_bytes(kept.read_bytes()[:100])
    assert load_corpus(archive, tmp_path, say=said.append).equals(first)
    assert "damaged" in said[3]
    assert (tmp_path / "spam").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "foreign"])
def test_an_archive_that_is_not_the_corpus_is_refused(damage: str, archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.tgz"
    if damage == "cut":
        path.write_bytes(archive.read_bytes()[:5000])
    elif damage == "text":
        path.write_text("not an archive")
    elif damage == "empty":
        write_mail_archive(path, [])
    else:
        write_mail_archive(path, [("spam-1", "1", None)])  # type: ignore[list-item]
    with pytest.raises(CorpusUnusableError, match=r"bad\.tgz: .*delete it and run again"):
        list(read_mails(path))


def run_of(name: str) -> RunFile:
    return load(recipe_text(name), where=name)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipes_run_file_is_valid_and_complete(name: str) -> None:
    run = run_of(name)
    assert run.name == name
    assert run.prepare is not None
    assert run.labelled is not None
    assert run.test is not None
    assert run.stream.label is None
    assert sum(population.devices for population in run.fleet.populations.values()) == 3
    assert recipe_text(name).startswith("# ")


def test_an_unknown_recipe_names_the_known() -> None:
    with pytest.raises(ConfigError, match="no recipe named 'spma'; expected one of: digits, spam"):
        recipe_text("spma")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_what_a_recipe_prepares_opens_as_its_run_file_says(name: str, archive: Path, tmp_path: Path) -> None:
    run = run_of(name)
    if name == "spam":
        run = run.model_copy(update={"prepare": run.prepare.model_copy(update={"options": SMALL})})  # type: ignore[union-attr]
    prepare_run(run, folder=tmp_path, cache=archive.parent, say=print, fetch=Fetching(archive))
    for section in (run.stream, run.labelled, run.validation, run.test):
        assert section is not None
        source = open_source(section, base=tmp_path)
        (part,) = source.parts()
        batch = source.read(part.identity, range(part.rows))
        assert batch.column("problem").null_count == part.rows > 0
        labels = set(batch.column("label").to_pylist())
        assert labels == {None} if section is run.stream else labels == set(run.classes)
    teacher = load_teacher(run.teacher, classes=run.classes, base=tmp_path)
    right = np.array(run.classes)[teacher.log_probs(batch.column("input")).argmax(axis=1)] == batch.column("label").to_pylist()
    assert right.mean() > 0.8
    metrics = json.loads((tmp_path / "teacher" / "metrics.json").read_text())
    assert set(metrics["choose"]) >= {"accuracy", "log_loss_nats"}
    assert "test" not in metrics


def test_the_three_parts_of_validation_are_told_by_a_carried_column(tmp_path: Path) -> None:
    run = run_of("digits")
    prepare_run(run, folder=tmp_path, cache=tmp_path, say=print, fetch=Fetching(tmp_path))
    source = open_source(run.validation, base=tmp_path)
    parts = source.read(source.parts()[0].identity, range(400)).column("part").to_pylist()
    assert {part: parts.count(part) for part in ("fit", "choose", "gate")} == {"fit": 100, "choose": 100, "gate": 200}
    assert pq.read_table(tmp_path / "feeds" / "feed-2.parquet").column_names == ["image", "pixels"]


def test_a_run_file_without_prepare_makes_nothing(tmp_path: Path) -> None:
    prepare_run(run_of("digits").model_copy(update={"prepare": None}), folder=tmp_path, cache=tmp_path, say=print, fetch=Fetching(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_digits_with_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fewer than 1797 in all"):
        digits.prepare(folder=tmp_path, cache=tmp_path, seed=1, options={"labelled": 1700}, say=print, fetch=Fetching(tmp_path))
