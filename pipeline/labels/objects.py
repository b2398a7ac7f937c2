"""Label stores on S3, Google Cloud Storage and Azure Blob Storage.

`put_if_absent` is the service's own conditional create (If-None-Match: *), so the log's safety rests on the service, not on a lock. A
repeated create whose first answer was lost says "it was there": the log knows its own record again by the nonce.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import obstore
from obstore.exceptions import AlreadyExistsError

from pipeline.files import FileTooLargeError
from pipeline.labels.store import OBJECT_MAX_BYTES, ObjectMissingError, checked_key
from pipeline.object_service import open_service, translated


class ObjectStore:
    """Objects below one prefix of a bucket or container; a `Store`. May be used by several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = open_service(url)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._translating(key):
            try:
                # In one request: a create of several parts would be conditional on nothing. Services take GBs in one, shards have MiBs.
                obstore.put(self._store, checked_key(key), data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

    def put(self, key: str, data: bytes) -> None:
        with self._translating(key):
            obstore.put(self._store, checked_key(key), data)

    def get(self, key: str) -> bytes:
        with self._translating(key):
            found = obstore.get(self._store, checked_key(key))
            if found.meta["size"] > OBJECT_MAX_BYTES:
                raise FileTooLargeError(key, found.meta["size"], OBJECT_MAX_BYTES)
            return bytes(found.bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if not 0 <= length <= OBJECT_MAX_BYTES:
            raise FileTooLargeError(key, length, OBJECT_MAX_BYTES)
        size = self.size(key)  # services refuse a range that begins beyond the end
        if size is None:
            raise ObjectMissingError(key)
        stop = min(start + length, size)
        if stop <= start:
            return b""
        with self._translating(key):
            return bytes(obstore.get_range(self._store, checked_key(key), start=start, end=stop))

    def delete(self, *keys: str) -> None:
        for first in range(0, len(keys), 1000):
            some = [checked_key(key) for key in keys[first : first + 1000]]
            try:
                with self._translating(some[0]):
                    obstore.delete(self._store, some)
            except ObjectMissingError:  # not every service takes it as done; some of the others may still be there
                for key in some:
                    with suppress(ObjectMissingError), self._translating(key):
                        obstore.delete(self._store, key)

    def list(self, prefix: str) -> Iterator[str]:
        # Services list by whole path segments; the rest of the prefix is looked at here.
        folder = prefix.rpartition("/")[0]
        with self._translating(prefix):
            pages = obstore.list(self._store, prefix=folder or None, chunk_size=1000)
            found = [meta["path"] for page in pages for meta in page]
        yield from sorted(key for key in found if key.startswith(prefix))

    def size(self, key: str) -> int | None:
        try:
            with self._translating(key):
                return int(obstore.head(self._store, checked_key(key))["size"])
        except ObjectMissingError:
            return None

    @contextmanager
    def _translating(self, key: str) -> Iterator[None]:
        try:
            with translated(self.url):
                yield
        except FileNotFoundError as error:
            raise ObjectMissingError(key) from error
