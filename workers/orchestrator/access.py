"""Who may call what: one table for every method that any port serves.

A device's certificate opens the device's methods, an operator's those of its role and of the roles below. A method that is not in
the table is not served, and a test demands that every method of `fleet.proto` is in it.
"""

import enum
from collections.abc import Mapping

from workers.orchestrator.refusals import CallerRefusedError


class Role(enum.IntEnum):
    """What a person or a script with an operator's certificate may do; each role may do what those below it may."""

    VIEWER = 1
    """Look."""
    OPERATOR = 2
    """Publish signed releases, move rollouts."""
    ADMIN = 3
    """Decide who belongs to the fleet."""


class Caller(enum.Enum):
    """Methods that no operator's role opens."""

    ANYBODY = "anybody"
    """Whoever the port's TLS let in."""
    DEVICE = "device"


Access = Role | Caller

ACCESS: Mapping[str, Access] = {
    "kdpipe.fleet.v1.Enrollment/Enroll": Caller.ANYBODY,  # a token is what proves
    "kdpipe.fleet.v1.Enrollment/Renew": Caller.ANYBODY,  # the key of the last certificate is what proves
    "kdpipe.fleet.v1.Fleet/Sync": Caller.DEVICE,
    "kdpipe.fleet.v1.Fleet/GetMetadata": Caller.DEVICE,
    "kdpipe.fleet.v1.Artifact/Fetch": Caller.DEVICE,
    "kdpipe.fleet.v1.Teacher/Ask": Caller.DEVICE,
    "kdpipe.fleet.v1.Operator/CreateToken": Role.ADMIN,
    "kdpipe.fleet.v1.Operator/RevokeDevice": Role.ADMIN,
    "kdpipe.fleet.v1.Operator/RevokeOperator": Role.ADMIN,
    "kdpipe.fleet.v1.Operator/Publish": Role.OPERATOR,
    "kdpipe.fleet.v1.Operator/CreateRollout": Role.OPERATOR,
    "kdpipe.fleet.v1.Operator/ControlRollout": Role.OPERATOR,
    "kdpipe.fleet.v1.Operator/LabelDevice": Role.OPERATOR,
    "kdpipe.fleet.v1.Operator/PlanRollout": Role.VIEWER,
    "kdpipe.fleet.v1.Operator/GetRollout": Role.VIEWER,
    "kdpipe.fleet.v1.Operator/GetRolloutEvents": Role.VIEWER,
    "kdpipe.fleet.v1.Operator/GetFleet": Role.VIEWER,
    "grpc.health.v1.Health/Check": Caller.ANYBODY,
    "grpc.health.v1.Health/List": Caller.ANYBODY,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.VIEWER,
}


def role_named(name: str) -> Role | None:
    """The role of this name, as certificates and the command line write it."""
    return Role.__members__.get(name.upper()) if name == name.lower() else None


def check_access(method: str, *, kind: str, role: Role | None) -> None:
    """That a caller of this kind (and, for an operator, of this role) may call `method`. Raises CallerRefusedError."""
    wanted = ACCESS[method]
    if wanted is Caller.ANYBODY:
        return
    if wanted is Caller.DEVICE:
        if kind != "device":
            raise CallerRefusedError(f"an {kind}'s certificate", "a device's")
        return
    assert isinstance(wanted, Role)
    if kind != "operator":
        raise CallerRefusedError(f"a {kind}'s certificate", "an operator's")
    if role is None or role < wanted:
        found = "an operator's certificate without a role" if role is None else f"role {role.name.lower()}"
        raise CallerRefusedError(found, f"role {wanted.name.lower()} for {method.rpartition('/')[2]}; `kdpipe operator new` makes one")
