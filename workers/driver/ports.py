"""The fleet's ports, looked at before a run starts: taken ones would be found only after labelling, training and gate."""

import errno
import socket

from pipeline.config import FleetSection
from workers.driver.children import recorded
from workers.driver.folder import RunFolder
from workers.orchestrator.ports import PortTakenError

NAMES = ("fleet", "enrolment", "operator", "metrics")


def check_ports(section: FleetSection, folder: RunFolder) -> None:
    """Raises PortTakenError for a port that the run file asks for and somebody else has; this run's own orchestrator may have it."""
    orchestrator = recorded(folder).get("orchestrator")
    ours = set(orchestrator.ready.values()) if orchestrator and orchestrator.alive() else set()
    for name in NAMES:
        port = getattr(section, f"{name}_port")
        if port and port not in ours and _taken(section.host, port):
            raise PortTakenError(section.host, port, name)


def _taken(host: str, port: int) -> bool:
    """An address that is not this machine's is not for this look to judge."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        return error.errno in (errno.EADDRINUSE, errno.EACCES)
    return False
