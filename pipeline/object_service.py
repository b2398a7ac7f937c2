"""Services that keep objects: S3, Google Cloud Storage, Azure Blob Storage, opened through obstore.

Credentials, region and endpoint come from the environment variables that each service's own tools read; none is ever in a run file.
Every request is bounded in time and repeated with growing pauses. S3 and Azure are tested against servers that speak their protocol;
Google Cloud Storage is written to the same interface and untested.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.errors import ConfigError, MachineError

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
_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class ServiceDeniedError(MachineError):
    """The service refuses our credentials, or what they may do."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.reason}; expected credentials that may read, write, list and delete there; "
            f"set {VARIABLES.get(urlparse(self.url).scheme, 'its variables')}"
        )


class ServiceUnreachableError(MachineError, ConnectionError):
    """The service did not answer, or not as it should; what was asked for may have been done or not."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.reason}; expected an answer within {RETRY['retry_timeout'].seconds} s of trying; "
            "is the endpoint right, and the bucket or container there? The same command goes on"
        )


@contextmanager
def translated(url: str) -> Iterator[None]:
    """What obstore raises, as ServiceDeniedError and ServiceUnreachableError; FileNotFoundError for an object that is not there."""
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise ServiceDeniedError(url, _reason(error)) from error
    except BaseError as error:
        if _DENIED.search(str(error)):  # listing says it in words only
            raise ServiceDeniedError(url, _reason(error)) from error
        raise ServiceUnreachableError(url, _reason(error)) from error


def open_service(url: str) -> Any:
    """obstore's store of `s3://`, `gs://` or `az://BUCKET/PREFIX`. Raises ConfigError, ServiceDeniedError."""
    parts = urlparse(url)
    prefix = parts.path.strip("/")
    if not parts.netloc or not prefix or parts.query or parts.fragment or "@" in parts.netloc:
        expected = f"{parts.scheme}://BUCKET/PREFIX, without keys or options"
        raise ConfigError("object store", repr(url), expected, "keys go into the environment")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError("object store", repr(url), "a prefix of letters, digits, `.`, `_`, `-` and `/`", "correct the URL")
    made = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[parts.scheme]
    try:
        return made(parts.netloc, prefix=prefix, client_options=CLIENT, retry_config=RETRY)
    except (BaseError, ValueError) as error:
        raise ServiceDeniedError(url, _reason(error)) from error


def _reason(error: Exception) -> str:
    """The first words of what the service said: its answers can be pages, and never hold our keys."""
    return re.sub(r"\s+", " ", str(error))[:_REASON_MAX_CHARS]
