"""Label stores on S3, Google Cloud Storage and Azure Blob Storage, through obstore.

`put_if_absent` is the service's own conditional create (If-None-Match: *), so the log's safety rests on the service, not on a lock.
Credentials, region and endpoint come from the environment variables that each service's own tools read; none is ever in a run file.
Every request is bounded in time and repeated with growing pauses. A repeated create whose first answer was lost says "it was there":
the log knows its own record again by the nonce.

S3 and Azure are tested against servers that speak their protocol; Google Cloud Storage is written to the same interface and untested.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.errors import ConfigError, LabelStoreError, MachineError
from pipeline.files import FileTooLargeError
from pipeline.labels.store import OBJECT_MAX_BYTES, ObjectMissingError, checked_key

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

CLIENT: "ClientConfig" = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=120), "allow_http": True}
"""A plain http:// endpoint is only ever used if somebody names one in the environment."""
RETRY: "RetryConfig" = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}
VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for other services than AWS, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY",
}
_REASON_MAX_CHARS = 300
_DENIED = re.compile(r"status code: 40[13]\b")


class StoreDeniedError(LabelStoreError):
    """The service refuses our credentials, or what they may do."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return (
            f"label store {self.url}: {self.reason}; expected credentials that may read, write, list and delete there; "
            f"set {VARIABLES.get(urlparse(self.url).scheme, 'its variables')}"
        )


class StoreUnreachableError(MachineError, ConnectionError):
    """The service did not answer, or not as it should; what was asked for may have been done or not."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return (
            f"label store {self.url}: {self.reason}; expected an answer within {RETRY['retry_timeout'].seconds} s of trying; "
            "is the endpoint right, and the bucket or container there? The same command goes on"
        )


class ObjectStore:
    """Objects below one prefix of a bucket or container; a `Store`. May be used by several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = open_service(url)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._translating(key):
            try:
                # In one request: a create of several parts would be conditional on nothing.
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

    def _translating(self, key: str) -> AbstractContextManager[None]:
        return translated(key, self.url)


@contextmanager
def translated(key: str, url: str) -> Iterator[None]:
    """What obstore raises, as errors of ours. Raises ObjectMissingError, StoreDeniedError, StoreUnreachableError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissingError(key) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StoreDeniedError(url, _reason(error)) from error
    except BaseError as error:
        if _DENIED.search(str(error)):  # listing says it in words only
            raise StoreDeniedError(url, _reason(error)) from error
        raise StoreUnreachableError(url, _reason(error)) from error


def open_service(url: str) -> Any:
    """obstore's store of `s3://`, `gs://` or `az://BUCKET/PREFIX`. Raises ConfigError, StoreDeniedError."""
    parts = urlparse(url)
    prefix = parts.path.strip("/")
    if not parts.netloc or not prefix or parts.query or parts.fragment or "@" in parts.netloc:
        expected = f"{parts.scheme}://BUCKET/PREFIX, without keys or options"
        raise ConfigError("label store", repr(url), expected, "keys go into the environment")
    checked_key(prefix)
    made = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[parts.scheme]
    try:
        return made(parts.netloc, prefix=prefix, client_options=CLIENT, retry_config=RETRY)
    except (BaseError, ValueError) as error:
        raise StoreDeniedError(url, _reason(error)) from error


def _reason(error: Exception) -> str:
    """The first words of what the service said: its answers can be pages, and never hold our keys."""
    return re.sub(r"\s+", " ", str(error))[:_REASON_MAX_CHARS]
