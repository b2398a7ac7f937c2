"""Samples on a real S3 server: read as files are, mirrored once, followed when they change."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import SourceSection
from pipeline.labels.store import Store, open_store
from pipeline.object_service import ServiceDeniedError
from pipeline.sources import GrowingSource, Source, open_source
from pipeline.sources.source import PartChangedError, SourceMissingError
from tests.kit.s3_server import BUCKET, s3_server
from tests.kit.samples import WRITERS

pytestmark = pytest.mark.xdist_group("object stores")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as variables:
        yield variables


@pytest.fixture
def store(server: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{BUCKET}/{request.node.originalname}")


def put(store: Store, key: str, texts: list[str], folder: Path) -> None:
    path = folder / Path(key).name
    WRITERS[path.suffix](path, {"text": texts})
    store.put(key, path.read_bytes())


def source_of(store: Any, folder: Path, path: str = "") -> Source:
    return open_source(SourceSection(path=f"{store.url}/{path}".rstrip("/"), options={"mirror": str(folder / "mirror")}), base=folder)


def texts_of(source: Source) -> list[str]:
    return [text for part in source.parts() for text in source.read(part.identity, range(part.rows)).column("input").to_pylist()]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet", ".arrow"])
def test_objects_are_read_as_files_are(store: Store, tmp_path: Path, ending: str) -> None:
    put(store, f"{ending[1:]}s/one{ending}", ["one", "two"], tmp_path)
    put(store, f"{ending[1:]}s/two{ending}", ["three"], tmp_path)
    store.put(f"{ending[1:]}s/notes.txt", b"no samples")
    assert texts_of(source_of(store, tmp_path, f"{ending[1:]}s")) == ["one", "two", "three"]
    assert texts_of(source_of(store, tmp_path, f"{ending[1:]}s/two{ending}")) == ["three"]


def test_a_glob_reaches_below(store: Store, tmp_path: Path) -> None:
    for name in ("x/one", "y/two"):
        put(store, f"{name}.jsonl", [name], tmp_path)
    assert texts_of(source_of(store, tmp_path, "*/one.jsonl")) == ["x/one"]


def test_what_was_appended_is_followed_and_what_was_replaced_is_another_part(store: Store, tmp_path: Path) -> None:
    put(store, "a.jsonl", ["one"], tmp_path)
    source = source_of(store, tmp_path)
    (before,) = source.parts()
    put(store, "a.jsonl", ["one", "two"], tmp_path)
    source = source_of(store, tmp_path)
    (now,) = source.parts()
    assert isinstance(source, GrowingSource)
    assert source.grown_from(before.identity) == now.identity
    assert source.read(before.identity, [0]).column("input").to_pylist() == ["one"]
    put(store, "a.jsonl", ["other"], tmp_path)
    with pytest.raises(PartChangedError):
        source_of(store, tmp_path).read(now.identity, [0])
    store.delete("a.jsonl")
    with pytest.raises(SourceMissingError, match="s3://"):
        source_of(store, tmp_path)


def test_an_object_is_fetched_once_and_half_a_download_is_never_read(store: Store, tmp_path: Path) -> None:
    put(store, "a.jsonl", ["one"], tmp_path)
    assert texts_of(source_of(store, tmp_path)) == ["one"]
    (mirrored,) = (tmp_path / "mirror").rglob("a.jsonl")
    changed_ns = mirrored.stat().st_mtime_ns
    mirrored.with_name(".99-a.jsonl").write_text("half")
    assert texts_of(source_of(store, tmp_path)) == ["one"]
    assert mirrored.stat().st_mtime_ns == changed_ns
    assert mirrored.parent.stat().st_mode & 0o777 == 0o700


def test_wrong_credentials_are_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ServiceDeniedError, match="set AWS_ACCESS_KEY_ID"):
        source_of(store, tmp_path)
