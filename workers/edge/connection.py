"""The device's line to its fleet: an identity, enrolled or loaded at the first call that needs it, and a channel that is replaced with it.

A call without an identity raises why there is none (`IdentityError`), as one without a network raises that: the caller tries again later.
One thread opens, enrols and renews: the agent's. `ask` comes from any thread, uses the line that is there and never opens one; a question
that is under way when the line is replaced has no answer. After `close` no line stays open, whoever was about to open one.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from workers.edge.enrol import Fleet, Identity, IdentityError, NotEnrolledError, enrol, load_identity, renew
from workers.edge.fleet_client import EnrolmentClient, FleetClient, FleetRefusedError, FleetUnreachableError
from workers.rpc import fleet_pb2 as pb

logger = logging.getLogger(__name__)


class Connection:
    """The fleet's calls, of one device. Raises IdentityError, FleetUnreachableError, FleetRefusedError."""

    def __init__(self, folder: Path, enrolment: Path | None, hardware: str) -> None:
        """Nothing is read or sent yet. `enrolment` is a file of an operator's, or None where the device must be enrolled already."""
        self._folder, self._enrolment, self._hardware = folder, enrolment, hardware
        self._line: tuple[Identity, FleetClient] | None = None
        self._swap, self._closed = threading.Lock(), False
        self._waits = False
        """There is an enrolment file that did not work yet, and an older identity that is used meanwhile."""

    @property
    def device(self) -> str:
        """The device's name; empty before it is known."""
        return self._line[0].device if self._line is not None else ""

    def root(self) -> bytes:
        """TUF root, version 1, as the enrolment file brought it."""
        return self.open().fleet.root.encode()

    def open(self) -> Identity:
        """The identity, enrolling first where the file asks for it."""
        return self._opened()[0]

    def sync(self, request: pb.SyncRequest) -> pb.SyncResponse:
        return self._opened()[1].sync(request)

    def metadata(self, name: str) -> bytes:
        return self._opened()[1].metadata(name)

    def fetch(self, digest: str, offset: int) -> Iterator[bytes]:
        return self._opened()[1].fetch(digest, offset)

    def ask(self, requests: Sequence[pb.AskRequest], timeout_s: float) -> list[pb.AskResponse | FleetUnreachableError | FleetRefusedError]:
        """Of each question the teacher's answer, or why there is none. Raises nothing."""
        line = self._line
        if line is None:
            return [FleetUnreachableError("Ask", "the device is not connected to its fleet yet")] * len(requests)
        return line[1].ask(requests, timeout_s)

    def renewal_due(self, now: datetime) -> bool:
        """The certificate ends soon at `now`, or an enrolment file still waits."""
        return self._line is not None and (self._waits or self._line[0].renewal_due(now))

    def renew(self) -> None:
        identity = self.open()
        if self._waits:
            self._use(self._enrol())
            self._waits = False
            return
        with EnrolmentClient(identity.fleet.endpoint_enrolment, identity.fleet.ca_pem) as client:
            self._use(renew(self._folder, identity, client))

    def close(self) -> None:
        with self._swap:
            self._closed, line = True, self._line
        if line is not None:
            line[1].close()

    def _opened(self) -> tuple[Identity, FleetClient]:
        return self._line if self._line is not None else self._use(self._enrolled_or_loaded())

    def _enrolled_or_loaded(self) -> Identity:
        if self._enrolment is None:
            return load_identity(self._folder)
        try:
            return self._enrol()
        except (IdentityError, FleetUnreachableError, FleetRefusedError, OSError) as error:
            try:
                identity = load_identity(self._folder)
            except NotEnrolledError:
                raise error from None
            logger.warning("not enrolled anew; the identity that is here is used", extra={"reason": str(error)})
            self._waits = True
            return identity

    def _enrol(self) -> Identity:
        assert self._enrolment is not None
        return enrol(self._folder, self._enrolment, connect_enrolment, hardware_class=self._hardware)

    def _use(self, identity: Identity) -> tuple[Identity, FleetClient]:
        fleet = identity.fleet
        client = FleetClient(fleet.endpoint_fleet, ca_pem=fleet.ca_pem, key_pem=identity.key_pem, certificate_pem=identity.certificate_pem)
        line = identity, client
        with self._swap:
            old, self._line, is_closed = self._line, line, self._closed
        if old is not None:
            old[1].close()
        if is_closed:
            client.close()
        return line


def connect_enrolment(fleet: Fleet) -> EnrolmentClient:
    return EnrolmentClient(fleet.endpoint_enrolment, fleet.ca_pem)
