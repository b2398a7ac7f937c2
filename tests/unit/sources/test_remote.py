"""Samples on real S3 and Azure servers: read as files are, mirrored once, followed when they change."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import SourceSection
from pipeline.labels.store import Store, open_store
from pipeline.object_service import ServiceDeniedError
from pipeline.sources import GrowingSource, Source, open_source
from pipeline.sources.remote import RemoteFiles
from pipeline.sources.source import PartChangedError, SourceMissingError
from tests.kit.azure_server import CONTAINER, azure_server
from tests.kit.s3_server import BUCKET, s3_server
from tests.kit.samples import WRITERS

pytestmark = pytest.mark.xdist_group("object stores")


@dataclass(frozen=True, kw_only=True)
class Service:
    """A server that runs: where to go below, and the variables that lead there."""

    bucket: str
    variables: Mapping[str, str]
    wrong: tuple[str, str]
    """A variable, and a value that the server refuses."""


@pytest.fixture(scope="module", params=["s3", "azure"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "s3":
        with s3_server(folder) as variables:
            yield Service(bucket=f"s3://{BUCKET}", variables=variables, wrong=("AWS_SECRET_ACCESS_KEY", "wrong"))
    else:
        key = base64.b64encode(b"not the key").decode()
        with azure_server(folder) as variables:
            yield Service(bucket=f"az://{CONTAINER}", variables=variables, wrong=("AZURE_STORAGE_ACCOUNT_KEY", key))


@pytest.fixture
def store(service: Service, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    for name, value in service.variables.items():
        monkeypatch.setenv(name, value)
    return open_store(f"{service.bucket}/{request.node.originalname}")


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


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*/one.jsonl", ["x/one"]),
        ("**/*.jsonl", ["one", "x/one", "x/y/z/deep", "y/two"]),
        ("x/**/*.jsonl", ["x/one", "x/y/z/deep"]),
        ("*.jsonl", ["one"]),
        ("[xy]/t?o.jsonl", ["y/two"]),
    ],
)
def test_a_glob_finds_what_it_finds_on_disk_and_nothing_else_is_mirrored(
    store: Store, tmp_path: Path, pattern: str, found: list[str]
) -> None:
    for name in ("one", "x/one", "y/two", "x/y/z/deep"):
        put(store, f"{name}.jsonl", [name], tmp_path)
        local = tmp_path / "disk" / f"{name}.jsonl"
        local.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[".jsonl"](local, {"text": [name]})
    assert sorted(texts_of(source_of(store, tmp_path, pattern))) == found
    assert sorted(texts_of(open_source(SourceSection(path=f"disk/{pattern}"), base=tmp_path))) == found
    assert len(list((tmp_path / "mirror").rglob("[!.]*.jsonl"))) == len(found)


def test_what_was_appended_is_followed_and_what_was_replaced_is_another_part(service: Service, store: Store, tmp_path: Path) -> None:
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
    with pytest.raises(SourceMissingError, match=re.escape(service.bucket)):
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


def test_wrong_credentials_are_named(service: Service, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*service.wrong)
    with pytest.raises(ServiceDeniedError, match=rf"set A.*{service.wrong[0]}"):
        source_of(store, tmp_path)


def test_google_cloud_storage_is_opened_without_a_request_and_wrong_credentials_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = SourceSection(path="gs://bucket/mails/*.jsonl", options={"mirror": str(tmp_path / "mirror")})
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", '{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}')
    source = RemoteFiles(section)
    assert not (tmp_path / "mirror").exists()
    assert source.grown_from("a.jsonl@0123-45") is None
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "not a key")
    with pytest.raises(ServiceDeniedError, match="set GOOGLE_SERVICE_ACCOUNT"):
        RemoteFiles(section)
