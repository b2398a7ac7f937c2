"""Every store against one contract, and what is particular to the local one."""

import base64
import errno
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, LabelStoreError
from pipeline.labels.entries import End
from pipeline.labels.log import FencedError, LogWriter
from pipeline.labels.store import LocalStore, MappedStore, Store, StoreFullError, open_store
from pipeline.object_service import RETRY, ServiceDeniedError, ServiceUnreachableError
from tests.kit.azure_server import CONTAINER, azure_server
from tests.kit.labelling import CLASSES, Bench, MemorySource, assert_exactly_once
from tests.kit.s3_server import BUCKET, free_ports, s3_server
from tests.kit.stores import MemoryStore, StoreContract


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "labels")

    def test_what_a_crashed_writer_left_behind_is_not_there(self, store: LocalStore) -> None:
        store.put("shards/a", b"1")
        (store.root / "shards" / ".tmp-b-0011").write_bytes(b"half of")
        assert list(store.list("")) == ["shards/a"]
        assert list(store.list("shards/")) == ["shards/a"]

    def test_an_object_is_durable_with_every_folder_above_it_even_one_that_another_process_made(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (store.root / "shards" / "1").mkdir(parents=True)
        found, fsync = list[int](), os.fsync

        def look(descriptor: int) -> None:
            found.append(os.fstat(descriptor).st_ino)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", look)
        store.put_if_absent("shards/1/a", b"")
        assert {folder.stat().st_ino for folder in (store.root, store.root / "shards", store.root / "shards" / "1")} <= set(found)
        found.clear()
        store.put_if_absent("shards/1/b", b"")
        assert len(found) == 2, "the file and its folder"

    def test_folders_are_the_owners_alone(self, store: LocalStore) -> None:
        store.put("shards/a", b"private input")
        store.put("shards/00000001/a", b"private input")
        store.put("deep/er/still/a", b"private input")
        for folder in ("shards/00000001", "deep", "deep/er", "deep/er/still"):
            assert (store.root / folder).stat().st_mode & 0o777 == 0o700
        assert (store.root / "shards").stat().st_mode & 0o777 == 0o700
        assert store.root.stat().st_mode & 0o777 == 0o700
        assert (store.root / "shards" / "a").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b", "", "a//b", ".tmp-x", "a/.hidden", "a\nb"])
    def test_a_key_that_leaves_the_store_is_refused(self, store: LocalStore, key: str) -> None:
        for act in (lambda: store.get(key), lambda: store.put(key, b""), lambda: store.delete(key), lambda: store.size(key)):
            with pytest.raises(ValueError, match="not a key"):
                act()

    def test_a_full_disk_has_an_error_of_its_own_and_leaves_nothing(self, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        store.put("shards/a", b"old")

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreFullError, match="no space left to write 'shards/a'"):
            store.put("shards/a", b"new")
        with pytest.raises(StoreFullError):
            store.put_if_absent("shards/b", b"new")
        assert list(store.list("")) == ["shards/a"]
        assert store.get("shards/a") == b"old"

    def test_objects_are_looked_at_in_place(self, store: LocalStore) -> None:
        store.put("a", b"0123")
        store.put("empty", b"")
        assert isinstance(store, MappedStore)
        assert bytes(store.map("a")) == b"0123"
        assert bytes(store.map("empty")) == b""

    def test_free_bytes_are_known_before_the_folder_is_there(self, store: LocalStore) -> None:
        assert store.free_bytes() > 0


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as variables:
        yield variables


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    with azure_server(tmp_path_factory.mktemp("azure")) as variables:
        yield variables


class RemoteStoreContract(StoreContract):
    """A store on a service, which tests share: each has a prefix of its own. Subclass it with a fixture `bucket`: the URL to go below."""

    @pytest.fixture
    def url(self, bucket: str, request: pytest.FixtureRequest) -> str:
        return f"{bucket}/{re.sub('[^a-z]', '-', request.node.originalname)}"

    @pytest.fixture
    def store(self, url: str) -> Store:
        return open_store(url)

    def test_stores_beside_each_other_do_not_see_each_other(self, url: str) -> None:
        mine, theirs = open_store(url), open_store(f"{url}2")
        theirs.put("log/1", b"theirs")
        assert list(mine.list("")) == []
        assert mine.put_if_absent("log/1", b"mine")
        assert theirs.get("log/1") == b"theirs"

    @pytest.mark.parametrize("key", ["../outside", "/abs", "a/../../b", "", ".tmp-x"])
    def test_a_key_that_leaves_the_store_is_refused(self, store: Store, key: str) -> None:
        for act in (lambda: store.get(key), lambda: store.put(key, b""), lambda: store.delete(key), lambda: store.size(key)):
            with pytest.raises(ValueError, match="not a key"):
                act()

    def test_a_log_is_written_followed_and_taken_over_there(self, store: Store) -> None:
        bench = Bench(store, MemorySource({"a": [f"text {row}" for row in range(30)]}))
        bench.run()
        assert_exactly_once(store, bench.source)
        older = LogWriter.open(store, holder="older", classes=CLASSES, nonce="o", now_unix_s=0)
        LogWriter.open(store, holder="newer", classes=CLASSES, nonce="n", now_unix_s=0)
        older.queue([End(generation=2)])
        with pytest.raises(FencedError, match="newer"):
            older.flush(now_unix_s=0)

    def test_known_content_is_found_there(self, store: Store) -> None:
        bench = Bench(store, MemorySource({"a": [f"text {row}" for row in range(20)]}))
        bench.run()
        bench.source.texts["b"] = [f"text {row}" for row in range(10, 30)]
        outcome = bench.run(2)
        assert (outcome.teacher_calls, outcome.rows_reused) == (10, 10)
        assert_exactly_once(store, bench.source, generation=2)


@pytest.mark.xdist_group("object stores")
class TestS3Store(RemoteStoreContract):
    @pytest.fixture
    def bucket(self, s3: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
        _set(monkeypatch, s3)
        return f"s3://{BUCKET}"

    def test_a_wrong_secret_is_refused_and_never_shown(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        with pytest.raises(ServiceDeniedError, match=r"403.*set AWS_ACCESS_KEY_ID") as refused:
            open_store(url).put("a", b"")
        assert "not-the-secret" not in str(refused.value)


@pytest.mark.xdist_group("object stores")
class TestAzureStore(RemoteStoreContract):
    @pytest.fixture
    def bucket(self, azure: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
        _set(monkeypatch, azure)
        return f"az://{CONTAINER}"

    def test_a_wrong_key_is_refused(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"not the key").decode())
        with pytest.raises(ServiceDeniedError, match=r"403.*set AZURE_STORAGE_ACCOUNT_NAME"):
            open_store(url).put("a", b"")

    def test_a_container_that_is_not_there_is_no_empty_store(self, azure: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        _set(monkeypatch, azure)
        with pytest.raises(LabelStoreError):
            open_store("az://elsewhere/run").put("a", b"")


def test_a_service_that_does_not_answer_is_named_and_the_error_is_one_to_try_again_after(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setitem(RETRY, "max_retries", 1)
    _set(monkeypatch, {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    with pytest.raises(ServiceUnreachableError, match=r"s3://labels/run: .*The same command goes on") as failed:
        open_store("s3://labels/run").put("a", b"")
    assert isinstance(failed.value, OSError)
    assert str(pickle.loads(pickle.dumps(failed.value))) == str(failed.value)


@pytest.mark.parametrize("url", ["s3://bucket", "s3://", "s3://key:secret@bucket/run", "s3://bucket/run?x=1", "az://container"])
def test_a_url_without_a_place_of_its_own_or_with_keys_in_it_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="BUCKET/PREFIX, without keys"):
        open_store(url)


def _set(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


def test_a_url_names_its_store(tmp_path: Path) -> None:
    for url in (str(tmp_path), tmp_path.as_uri()):
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.root == tmp_path
    with pytest.raises(ConfigError, match=r"ftp://bucket.*expected a local folder"):
        open_store("ftp://bucket/run")
