"""Every store against one contract, and what is particular to the local one."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.labels.store import LocalStore, MappedStore, StoreFullError, open_store
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

    def test_folders_are_the_owners_alone(self, store: LocalStore) -> None:
        store.put("shards/a", b"private input")
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


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


def test_a_url_names_its_store(tmp_path: Path) -> None:
    for url in (str(tmp_path), tmp_path.as_uri()):
        store = open_store(url)
        assert isinstance(store, LocalStore)
        assert store.root == tmp_path
    with pytest.raises(ConfigError, match=r"s3://bucket.*expected a local folder"):
        open_store("s3://bucket")
