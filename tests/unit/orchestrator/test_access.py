"""Who may call what: the table, and each role over real gRPC and real certificates."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from tests.kit.orchestrators import RunningOrchestrator, refused_with
from tests.kit.wire_devices import private_pem
from workers.commands import operator as verbs
from workers.orchestrator.access import ACCESS, Caller, Role, check_access, role_named
from workers.orchestrator.client import Operator, OrchestratorRefusedError
from workers.orchestrator.operator_file import OperatorFile, OperatorFileError, read_operator_file, write_operator_file
from workers.orchestrator.pki import CA_KEY_FILE, CertificateRefusedError, issue_operator, operator_credentials, utc
from workers.orchestrator.refusals import CallerRefusedError
from workers.rpc import fleet_pb2

SERVICES = fleet_pb2.DESCRIPTOR.services_by_name
METHODS = [(service, method) for service in SERVICES.values() for method in service.methods]
BY_ROLE = {Role.VIEWER: "viewer", Role.OPERATOR: "operator", Role.ADMIN: "admin"}


@contextmanager
def operator_of(running: RunningOrchestrator, role: Role, *, name: str = "ann", valid: timedelta = timedelta(days=1)) -> Iterator[Operator]:
    pki = running.folder / "fleet" / "pki"
    ca_pem, pair = issue_operator(pki / CA_KEY_FILE, name=name, role=role, now=utc(running.clock()), valid=valid)
    address = f"127.0.0.1:{running.ports.operator}"
    with Operator(address=address, ca_pem=ca_pem, key_pem=pair.key_pem, certificate_pem=pair.certificate_pem) as operator:
        yield operator


def test_every_method_of_the_protocol_is_in_the_table() -> None:
    assert {f"{service.full_name}/{method.name}" for service, method in METHODS} <= set(ACCESS)


def test_every_entry_of_the_table_is_a_method_that_exists() -> None:
    ours = {f"{service.full_name}/{method.name}" for service, method in METHODS}
    assert {name for name in ACCESS if name.startswith("kdpipe.")} == ours


@given(method=st.sampled_from(sorted(ACCESS)), kind=st.sampled_from(["device", "operator"]), role=st.sampled_from([None, *Role]))
def test_a_device_gets_nothing_of_an_operators_and_a_role_only_what_is_its_own_or_below(method: str, kind: str, role: Role | None) -> None:
    wanted = ACCESS[method]
    may = wanted is Caller.ANYBODY or (
        kind == "device" if wanted is Caller.DEVICE else kind == "operator" and role is not None and role >= wanted.value
    )
    try:
        check_access(method, kind=kind, role=role)
    except CallerRefusedError:
        assert not may
    else:
        assert may


@pytest.mark.parametrize("role", Role)
def test_each_role_gets_at_every_method_what_the_table_says(shared: RunningOrchestrator, role: Role) -> None:
    with operator_of(shared, role) as operator:
        for method in SERVICES["Operator"].methods:
            full, wanted = f"/kdpipe.fleet.v1.Operator/{method.name}", ACCESS[f"kdpipe.fleet.v1.Operator/{method.name}"]
            make = operator._channel.stream_unary if method.client_streaming else operator._channel.unary_unary
            request = GetMessageClass(method.input_type)()
            call: Any = make(full, lambda message: message.SerializeToString(), None)
            try:
                call(iter([request]) if method.client_streaming else request, timeout=5)
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                code = error.code()
            assert isinstance(wanted, Role)
            assert (code is not grpc.StatusCode.PERMISSION_DENIED) == (role >= wanted), f"{role} {method.name}: {code}"


def test_a_viewer_is_told_which_role_it_needs(shared: RunningOrchestrator) -> None:
    with operator_of(shared, Role.VIEWER) as viewer:
        viewer.get_fleet()
        with pytest.raises(OrchestratorRefusedError, match="role viewer; expected role admin for CreateToken"):
            viewer.create_tokens("mail")


def test_an_operator_whose_certificate_ended_is_refused(orchestrator: RunningOrchestrator) -> None:
    with operator_of(orchestrator, Role.ADMIN, valid=timedelta(hours=1)) as operator:
        operator.get_fleet()
        orchestrator.clock.ahead_s = 3601.0
        with pytest.raises(OrchestratorRefusedError, match="renew") as refusal:
            operator.get_fleet()
        assert refusal.value.code == "UNAUTHENTICATED"


def test_a_revoked_operator_is_refused_on_the_connection_it_has_and_after_a_restart(orchestrator: RunningOrchestrator) -> None:
    with operator_of(orchestrator, Role.ADMIN, name="eve") as eve:
        eve.get_fleet()
        orchestrator.operator.revoke_operator("eve")
        with pytest.raises(OrchestratorRefusedError, match="revoked operator"):
            eve.get_fleet()
    orchestrator.restart()
    with operator_of(orchestrator, Role.ADMIN, name="eve") as again, pytest.raises(OrchestratorRefusedError, match="revoked"):
        again.get_fleet()
    with pytest.raises(OrchestratorRefusedError, match="local"):
        orchestrator.operator.revoke_operator("local")


@pytest.mark.parametrize("name", ["local", "", "device:d-1", "Ann", "x" * 64, "a/b"])
def test_an_operator_whose_name_cannot_be_is_not_made(shared: RunningOrchestrator, name: str) -> None:
    with pytest.raises(CertificateRefusedError):
        issue_operator(shared.folder / "fleet" / "pki" / CA_KEY_FILE, name=name, role=Role.ADMIN, now=utc(0), valid=timedelta(days=1))


def test_an_operators_file_is_all_that_it_needs(shared: RunningOrchestrator) -> None:
    pki, path = shared.folder / "fleet" / "pki", shared.folder / "ann.json"
    ca_pem, pair = issue_operator(pki / CA_KEY_FILE, name="ann", role=Role.VIEWER, now=utc(shared.clock()), valid=timedelta(days=1))
    content = OperatorFile(endpoint=f"127.0.0.1:{shared.ports.operator}", ca_pem=ca_pem, credentials=pair)
    write_operator_file(path, content)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_operator_file(path) == content
    with Operator.from_file(path) as operator:
        operator.get_fleet()
    for bad in ("[]", "{", '{"version": 2}', '{"version": 1}'):
        path.write_text(bad)
        with pytest.raises(OperatorFileError, match=r"ann\.json"):
            read_operator_file(path)


def test_the_verbs_make_an_operator_and_end_it(shared: RunningOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared.folder / "bob.json"
    verbs.new(shared.folder, "bob", role="operator", out=path, days=1)
    assert "operator at 127.0.0.1" in capsys.readouterr().out
    with Operator.from_file(path) as bob:
        bob.get_fleet()
        verbs.revoke(shared.folder / "fleet", "bob")
        with pytest.raises(OrchestratorRefusedError, match="revoked operator"):
            bob.get_fleet()
    assert "bob: refused from now on" in capsys.readouterr().out
    again = shared.folder / "again.json"
    with pytest.raises(ConfigError, match="'bob' was revoked, which is for ever"):
        verbs.new(shared.folder, "bob", role="operator", out=again, days=1)
    assert not again.exists()
    with pytest.raises(ConfigError, match="viewer, operator or admin"):
        verbs.new(shared.folder, "bob", role="root", out=path)
    with pytest.raises(ConfigError, match="no orchestrator"):
        verbs.new(shared.folder / "made", "bob", role="viewer", out=path)


def test_where_no_database_says_who_was_revoked_that_is_said(
    shared: RunningOrchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shared.folder / "fleet", tmp_path / "fleet", ignore=shutil.ignore_patterns("*.db*"))
    verbs.new(tmp_path, "cid", role="viewer", out=tmp_path / "cid.json", days=1)
    assert "if cid was ever revoked, this file is refused" in capsys.readouterr().out


def test_roles_are_written_in_small_letters() -> None:
    assert [role_named(name) for name in ("viewer", "operator", "admin")] == list(Role)
    assert [role_named(name) for name in ("Admin", "root", "", "ADMIN")] == [None] * 4


def test_every_port_says_that_it_is_well_and_none_keeps_a_watch(shared: RunningOrchestrator) -> None:
    (device,) = shared.devices(1)
    bare, _ = shared.endpoints.enrolment_stub()
    with bare:
        for channel in (device.channel, bare, shared.operator._channel):
            stub = health_pb2_grpc.HealthStub(channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
            with refused_with(grpc.StatusCode.UNIMPLEMENTED):
                list(stub.Watch(health_pb2.HealthCheckRequest(), timeout=5))


def test_reflection_is_for_operators_only(shared: RunningOrchestrator) -> None:
    (device,) = shared.devices(1)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(shared.operator._channel).ServerReflectionInfo(iter([request]), timeout=5)
    assert "kdpipe.fleet.v1.Operator" in {service.name for service in answer.list_services_response.service}
    with refused_with(grpc.StatusCode.UNIMPLEMENTED):
        list(reflection_pb2_grpc.ServerReflectionStub(device.channel).ServerReflectionInfo(iter([request]), timeout=5))
    mine = shared.endpoints.mutual(shared.ports.operator, key_pem=private_pem(device.key), certificate_pem=device.certificate_pem)
    with mine, refused_with(grpc.StatusCode.PERMISSION_DENIED):
        list(reflection_pb2_grpc.ServerReflectionStub(mine).ServerReflectionInfo(iter([request]), timeout=5))


@pytest.fixture(name="raw", scope="module")
def _raw(shared: RunningOrchestrator) -> Iterator[Callable[[int, bytes], grpc.StatusCode]]:
    """Sends bytes to the n-th method of the protocol, as a caller whom the method lets in."""
    (device,) = shared.devices(1)
    _, pair = operator_credentials(shared.folder / "fleet" / "pki")
    bare, _ = shared.endpoints.enrolment_stub()
    admin = shared.endpoints.mutual(shared.ports.operator, key_pem=pair.key_pem, certificate_pem=pair.certificate_pem)
    channels = {"Fleet": device.channel, "Artifact": device.channel, "Teacher": device.channel, "Enrollment": bare, "Operator": admin}

    def send(number: int, data: bytes) -> grpc.StatusCode:
        service, method = METHODS[number]
        channel, name = channels[service.name], f"/{service.full_name}/{method.name}"
        try:
            if method.client_streaming:
                channel.stream_unary(name, None, None)(iter([data]), timeout=10)
            elif method.server_streaming:
                list(channel.unary_stream(name, None, None)(data, timeout=10))
            else:
                channel.unary_unary(name, None, None)(data, timeout=10)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    yield send
    bare.close()
    admin.close()


@settings(max_examples=150)
@given(number=st.integers(0, len(METHODS) - 1), data=st.binary(max_size=300))
def test_no_bytes_make_any_method_fail_inside(raw: Callable[[int, bytes], grpc.StatusCode], number: int, data: bytes) -> None:
    assert raw(number, data) not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize("number", range(len(METHODS)))
def test_a_message_that_does_not_parse_is_an_invalid_argument(raw: Callable[[int, bytes], grpc.StatusCode], number: int) -> None:
    assert raw(number, b"\x0a\xff\xff\xff\xff\x0f") is grpc.StatusCode.INVALID_ARGUMENT
