"""The orchestrator over real gRPC and real certificates: whom and what it refuses."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.releases.assignment import AssignmentRefusedError
from pipeline.rollout.steering import Action
from tests.kit.bundles import Trust, target_of, text_bundle
from tests.kit.orchestrators import RunningOrchestrator, refused_with
from tests.kit.wire_devices import SimulatedDevice, private_pem, signing_request
from workers.orchestrator.client import Operator, OrchestratorRefusedError, OrchestratorUnreachableError
from workers.orchestrator.pki import DEVICE_VALID, RENEW_GRACE, ensure_pki, issue_device, operator_credentials, parse_request, utc
from workers.orchestrator.server import MAX_DEVICE_MESSAGE_BYTES
from workers.rpc import fleet_pb2, fleet_pb2_grpc


def test_a_used_token_is_refused_to_another_key_and_gives_the_same_device_to_the_same_key(orchestrator: RunningOrchestrator) -> None:
    (token,) = orchestrator.operator.create_tokens("mail")
    device = SimulatedDevice(orchestrator.endpoints)
    first = device.enrol(token)
    assert device.enrol(token) == first, "the answer was lost, the device asks again"
    with refused_with(grpc.StatusCode.PERMISSION_DENIED, "unknown, used or expired"):
        SimulatedDevice(orchestrator.endpoints).enrol(token)
    assert len(orchestrator.operator.get_fleet().devices) == 1


def test_a_device_that_lost_its_answer_and_got_another_token_is_the_same_device(shared: RunningOrchestrator) -> None:
    first, second, foreign = *shared.operator.create_tokens("mail", count=2), *shared.operator.create_tokens("ads")
    device = SimulatedDevice(shared.endpoints)
    device_id = device.enrol(first)
    assert device.enrol(second) == device_id, "no ghost that a rollout would wait for"
    with refused_with(grpc.StatusCode.PERMISSION_DENIED):
        SimulatedDevice(shared.endpoints).enrol(second)
    assert device.enrol(foreign) != device_id, "another population is another device"


def test_an_expired_token_and_an_invented_one_are_refused_alike(orchestrator: RunningOrchestrator) -> None:
    (token,) = orchestrator.operator.create_tokens("mail", valid_s=60.0)
    orchestrator.clock.ahead_s = 61.0
    for bad in (token, "invented", "", "x" * 10_000):
        with refused_with(grpc.StatusCode.PERMISSION_DENIED, "unknown, used or expired"):
            SimulatedDevice(orchestrator.endpoints).enrol(bad)


def test_tokens_are_not_in_the_database(orchestrator: RunningOrchestrator) -> None:
    (token,) = orchestrator.operator.create_tokens("mail")
    orchestrator.stop()
    stored = b"".join(path.read_bytes() for path in (orchestrator.folder / "fleet").glob("orchestrator.db*"))
    assert token.encode() not in stored
    assert hashlib.sha256(token.encode()).hexdigest().encode() in stored
    orchestrator.start()


def test_a_signing_request_that_names_an_operator_gets_a_device_certificate(shared: RunningOrchestrator) -> None:
    (token,) = shared.operator.create_tokens("mail")
    key = ec.generate_private_key(ec.SECP256R1())
    channel, stub = shared.endpoints.enrolment_stub()
    with channel:
        request = fleet_pb2.EnrollRequest(token=token, csr_der=signing_request(key, name="operator:mallory"), hardware_class="x86")
        certificate = stub.Enroll(request, timeout=5).certificate_pem
    with (
        shared.endpoints.mutual(shared.ports.operator, key_pem=private_pem(key), certificate_pem=certificate) as channel,
        refused_with(grpc.StatusCode.PERMISSION_DENIED, "device's certificate"),
    ):
        fleet_pb2_grpc.OperatorStub(channel).GetFleet(fleet_pb2.GetFleetRequest(), timeout=5)


def test_a_device_certificate_is_refused_at_every_method_of_the_operator_port(shared: RunningOrchestrator) -> None:
    (device,) = shared.devices(1)
    mallory = Operator(
        address=f"127.0.0.1:{shared.ports.operator}",
        ca_pem=shared.endpoints.ca_pem,
        key_pem=private_pem(device.key),
        certificate_pem=device.certificate_pem,
    )
    attempts = (
        lambda: mallory.create_tokens("mail"),
        lambda: mallory.revoke(device.device_id),
        lambda: mallory.publish(b"{}"),
        lambda: mallory.create_rollout("r", population="mail", target="t", waves=(1.0,), soak_s=0, deadline_s=1),
        lambda: mallory.approve("r"),
        lambda: mallory.get_rollout("r"),
        mallory.get_fleet,
    )
    with mallory:
        for attempt in attempts:
            with pytest.raises(OrchestratorRefusedError) as refusal:
                attempt()
            assert refusal.value.code == "PERMISSION_DENIED"


def test_an_operator_certificate_is_refused_at_every_method_of_the_device_port(shared: RunningOrchestrator) -> None:
    _, credentials = operator_credentials(shared.folder / "fleet" / "pki")
    channel = shared.endpoints.mutual(shared.ports.fleet, key_pem=credentials.key_pem, certificate_pem=credentials.certificate_pem)
    with channel:
        fleet, artifact = fleet_pb2_grpc.FleetStub(channel), fleet_pb2_grpc.ArtifactStub(channel)
        with refused_with(grpc.StatusCode.PERMISSION_DENIED, "operator's certificate"):
            fleet.Sync(fleet_pb2.SyncRequest(), timeout=5)
        with refused_with(grpc.StatusCode.PERMISSION_DENIED):
            fleet.GetMetadata(fleet_pb2.GetMetadataRequest(name="timestamp.json", max_bytes=1000), timeout=5)
        with refused_with(grpc.StatusCode.PERMISSION_DENIED):
            list(artifact.Fetch(fleet_pb2.FetchRequest(digest="a" * 64), timeout=5))


@pytest.mark.parametrize("port", ["fleet", "operator"])
def test_a_caller_without_a_certificate_does_not_get_in(shared: RunningOrchestrator, port: str) -> None:
    address = f"127.0.0.1:{getattr(shared.ports, port)}"
    credentials = grpc.ssl_channel_credentials(shared.endpoints.ca_pem)
    with grpc.secure_channel(address, credentials) as channel, refused_with(grpc.StatusCode.UNAVAILABLE):
        fleet_pb2_grpc.FleetStub(channel).Sync(fleet_pb2.SyncRequest(), timeout=5)


def test_a_certificate_of_another_ca_does_not_get_in(shared: RunningOrchestrator, tmp_path: Path) -> None:
    (known,) = shared.devices(1)
    other = ensure_pki(tmp_path / "other", host="127.0.0.1", now=utc(shared.clock()))
    forged = SimulatedDevice(shared.endpoints)
    request = parse_request(signing_request(forged.key))
    forged.certificate_pem = issue_device(other, request, device_id=known.device_id, population="mail", now=utc(shared.clock()))
    with refused_with(grpc.StatusCode.UNAVAILABLE):
        forged.sync()
    forged.close()


def test_plain_text_is_not_answered(shared: RunningOrchestrator) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{shared.ports.fleet}") as channel, refused_with(grpc.StatusCode.UNAVAILABLE):
        fleet_pb2_grpc.FleetStub(channel).Sync(fleet_pb2.SyncRequest(), timeout=5)


def test_a_revoked_device_is_refused_on_the_connection_it_has(orchestrator: RunningOrchestrator) -> None:
    device, other = orchestrator.devices(2)
    orchestrator.operator.revoke(device.device_id)
    for attempt in (device.sync, lambda: device.metadata("timestamp.json"), lambda: list(device.fetch("a" * 64))):
        with refused_with(grpc.StatusCode.PERMISSION_DENIED, "revoked"):
            attempt()
    with refused_with(grpc.StatusCode.PERMISSION_DENIED, "revoked"):
        device.renew()
    other.sync()
    orchestrator.restart()
    with refused_with(grpc.StatusCode.PERMISSION_DENIED, "revoked"):
        device.sync()


def test_a_revoked_device_cannot_enrol_again_with_its_old_token(shared: RunningOrchestrator) -> None:
    (token,) = shared.operator.create_tokens("mail")
    device = SimulatedDevice(shared.endpoints)
    shared.operator.revoke(device.enrol(token))
    with refused_with(grpc.StatusCode.PERMISSION_DENIED, "revoked"):
        device.enrol(token)


def test_a_certificate_that_ended_is_refused_on_the_connection_it_has_until_renewed(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    orchestrator.clock.ahead_s = (DEVICE_VALID + timedelta(days=1)).total_seconds()
    with refused_with(grpc.StatusCode.UNAUTHENTICATED, "renew"):
        device.sync()
    with refused_with(grpc.StatusCode.UNAUTHENTICATED, "did not make"):
        device.renew(prove_with=ec.generate_private_key(ec.SECP256R1()))
    device.renew(key=ec.generate_private_key(ec.SECP256R1()))
    orchestrator.clock.ahead_s += (DEVICE_VALID + RENEW_GRACE).total_seconds()
    with refused_with(grpc.StatusCode.UNAUTHENTICATED, "enrol anew"):
        device.renew()


def test_nothing_in_a_body_can_speak_for_another_device(orchestrator: RunningOrchestrator) -> None:
    """A confirmed report counts for the certificate that brought it, and an assignment for another device does not verify."""
    mallory, victim = orchestrator.devices(2)
    release = orchestrator.release()
    orchestrator.roll_out(release, waves=(1.0,))
    orchestrator.wait_for(lambda: len(orchestrator.offered(mallory, victim, digest=release.digest)) == 2)
    victims = victim.assignment
    mallory.confirm()
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").confirmed == 1)
    states = {device.device_id: device.state for device in orchestrator.operator.get_fleet().devices}
    assert states[victim.device_id] == "unspecified"
    mallory.assignment = victims
    with pytest.raises(AssignmentRefusedError, match="for device"):
        mallory.verify(orchestrator.targets_metadata, now_s=orchestrator.clock())


def test_a_replayed_report_and_an_older_incarnation_change_nothing(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    device.incarnation = 5
    first = device.report("CHECK")
    device.sync(first)
    device.sync(fleet_pb2.Report(incarnation=5, sequence=1, state="DEVICE_STATE_FAILED"))
    answer = device.sync(fleet_pb2.Report(incarnation=4, sequence=99, state="DEVICE_STATE_FAILED"))
    assert (answer.acknowledged_incarnation, answer.acknowledged_sequence) == (5, 1)
    assert orchestrator.operator.get_fleet().devices[0].state == "check"


def test_a_confirmation_without_the_running_digest_does_not_count(orchestrator: RunningOrchestrator) -> None:
    (device,) = orchestrator.devices(1)
    release = orchestrator.release()
    orchestrator.roll_out(release)
    orchestrator.offered(device, digest=release.digest)
    device.sync(device.report("CONFIRMED"))
    device.sync()
    assert orchestrator.operator.get_rollout("r1").confirmed == 0
    device.running_digest = release.digest
    device.sync()
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").confirmed == 1)


@pytest.mark.parametrize(
    "request_",
    [
        fleet_pb2.SyncRequest(running_digest="../../etc/passwd"),
        fleet_pb2.SyncRequest(hardware_class="a b"),
        fleet_pb2.SyncRequest(assignment_generation=2**64 - 1),
        fleet_pb2.SyncRequest(reports=[fleet_pb2.Report(incarnation=1, sequence=1)]),
        fleet_pb2.SyncRequest(reports=[fleet_pb2.Report(incarnation=1, sequence=n + 1, state="DEVICE_STATE_IDLE") for n in range(65)]),
    ],
)
def test_a_body_that_no_agent_sends_is_refused_and_named(shared: RunningOrchestrator, request_: fleet_pb2.SyncRequest) -> None:
    (device,) = shared.devices(1)
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT, "expected"):
        fleet_pb2_grpc.FleetStub(device.channel).Sync(request_, timeout=5)


def test_an_oversized_message_is_refused_before_it_is_read(shared: RunningOrchestrator) -> None:
    (device,) = shared.devices(1)
    huge = fleet_pb2.SyncRequest(agent_version="x" * MAX_DEVICE_MESSAGE_BYTES)
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED):
        fleet_pb2_grpc.FleetStub(device.channel).Sync(huge, timeout=5)


@pytest.mark.parametrize("name", ["../../keys/online/snapshot.pem", "/etc/passwd", "9.root.json", "releases.json", ""])
def test_metadata_that_is_not_there_is_not_found(shared: RunningOrchestrator, name: str) -> None:
    (device,) = shared.devices(1)
    with refused_with(grpc.StatusCode.NOT_FOUND):
        device.metadata(name)


def test_metadata_longer_than_asked_for_is_not_sent(shared: RunningOrchestrator) -> None:
    (device,) = shared.devices(1)
    with refused_with(grpc.StatusCode.OUT_OF_RANGE):
        device.metadata("1.root.json", max_bytes=100)


@pytest.mark.parametrize(
    ("digest", "code"),
    [("a" * 64, "NOT_FOUND"), ("../metadata/timestamp.json", "INVALID_ARGUMENT"), ("", "NOT_FOUND"), ("A" * 64, "INVALID_ARGUMENT")],
)
def test_a_bundle_that_is_not_published_is_not_served(shared: RunningOrchestrator, digest: str, code: str) -> None:
    (device,) = shared.devices(1)
    with refused_with(grpc.StatusCode[code]):
        list(device.fetch(digest))


def test_an_offset_past_the_end_is_refused(shared: RunningOrchestrator) -> None:
    (device,) = shared.devices(1)
    release = shared.release()
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT, "offset"):
        list(device.fetch(release.digest, offset=release.length + 1))


def test_a_bundle_that_is_not_the_signed_one_is_not_published(orchestrator: RunningOrchestrator) -> None:
    bundle, other = text_bundle(orchestrator.folder / "b", seed=1), text_bundle(orchestrator.folder / "c", seed=2)
    metadata = orchestrator.trust.signer().add(target_of(bundle), now=utc(orchestrator.clock()))
    with pytest.raises(OrchestratorRefusedError, match="signed release"):
        orchestrator.operator.publish(metadata, other.path)
    assert list((orchestrator.trust.repository / "incoming").iterdir()) == []
    with pytest.raises(OrchestratorRefusedError, match="no such published bundle"):
        orchestrator.operator.create_rollout(
            "r1", population="mail", target=target_of(bundle).path, waves=(1.0,), soak_s=0.0, deadline_s=9.0
        )


def test_metadata_that_the_release_key_did_not_sign_is_not_published(shared: RunningOrchestrator, tmp_path: Path) -> None:
    thief = Trust.make(tmp_path / "thief", now=utc(shared.clock()))
    bundle = text_bundle(tmp_path / "b")
    with pytest.raises(OrchestratorRefusedError, match="not signed by the release key"):
        shared.operator.publish(thief.signer().add(target_of(bundle), now=utc(shared.clock())), bundle.path)


def test_bundle_bytes_before_metadata_are_refused(shared: RunningOrchestrator) -> None:
    stub = shared.operator._stub
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT, "metadata first"):
        stub.Publish(iter([fleet_pb2.PublishRequest(chunk=b"x")]), timeout=5)
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT, "metadata first"):
        stub.Publish(iter([]), timeout=5)


@pytest.mark.parametrize(
    "changes",
    [
        {"waves": ()}, {"waves": (0.5,)}, {"waves": (0.5, 0.2, 1.0)}, {"waves": (0.0, 1.0)}, {"waves": (float("nan"), 1.0)},
        {"soak_s": -1.0}, {"soak_s": float("nan")}, {"deadline_s": 0.0}, {"deadline_s": float("inf")}, {"lost_after_s": -1.0},
        {"rollout_id": "../x"}, {"population": "No Such"},
    ],
)  # fmt: skip
def test_a_rollout_that_cannot_be_meant_is_refused(shared: RunningOrchestrator, changes: dict[str, object]) -> None:
    values = {
        "rollout_id": "r1",
        "population": "mail",
        "target": "releases/small-000001.kdpb",
        "waves": (1.0,),
        "soak_s": 0.0,
        "deadline_s": 9.0,
        **changes,
    }
    with pytest.raises(OrchestratorRefusedError) as refusal:
        shared.operator.create_rollout(**values)  # type: ignore[arg-type]
    assert refusal.value.code == "INVALID_ARGUMENT"


def test_a_rollout_asked_for_twice_is_one_and_with_another_content_is_refused(orchestrator: RunningOrchestrator) -> None:
    release = orchestrator.release()
    plan = {"population": "mail", "target": release.path, "waves": (1.0,), "soak_s": 0.0, "deadline_s": 9.0}
    first = orchestrator.operator.create_rollout("r1", **plan)  # type: ignore[arg-type]
    assert orchestrator.operator.create_rollout("r1", **plan) == first  # type: ignore[arg-type]
    with pytest.raises(OrchestratorRefusedError, match="another content"):
        orchestrator.operator.create_rollout("r1", **{**plan, "soak_s": 1.0})  # type: ignore[arg-type]


def test_actions_that_a_state_does_not_allow_are_refused_with_the_state(orchestrator: RunningOrchestrator) -> None:
    orchestrator.operator.create_rollout(
        "r1", population="mail", target=orchestrator.release().path, waves=(1.0,), soak_s=0.0, deadline_s=9.0
    )
    with pytest.raises(OrchestratorRefusedError, match="cannot pause while it is draft"):
        orchestrator.operator.control("r1", Action.PAUSE)
    with pytest.raises(OrchestratorRefusedError, match="there is none"):
        orchestrator.operator.approve("r2")


@pytest.mark.parametrize("bad", ["a\0b", "", "r 1", "x" * 81])
def test_a_rollout_that_nobody_could_have_created_is_not_looked_for(shared: RunningOrchestrator, bad: str) -> None:
    operator = shared.operator
    for attempt in (lambda: operator.get_rollout(bad), lambda: operator.control(bad, Action.PAUSE), lambda: operator.events(bad)):
        with pytest.raises(OrchestratorRefusedError, match="rollout_id") as refused:
            attempt()
        assert refused.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("changes", [{"population": "Bad Name"}, {"count": 100_000}, {"valid_s": -1.0}, {"valid_s": 1e12}])
def test_tokens_without_measure_are_refused(shared: RunningOrchestrator, changes: dict[str, object]) -> None:
    with pytest.raises(OrchestratorRefusedError):
        shared.operator.create_tokens(**{"population": "mail", **changes})  # type: ignore[arg-type]


def test_a_server_that_is_gone_is_said_to_be_gone(orchestrator: RunningOrchestrator) -> None:
    address = f"127.0.0.1:{orchestrator.ports.operator}"
    orchestrator.stop()
    operator = Operator.open(orchestrator.folder / "fleet")
    with operator, pytest.raises(OrchestratorUnreachableError, match=address):
        operator.wait_ready(timeout_s=0.3)
    orchestrator.start()


@pytest.mark.parametrize(
    "poison",
    [
        {"latency_p50_ms": float("nan")}, {"latency_p99_ms": float("inf")}, {"incumbent_latency_p50_ms": -1.0},
        {"samples": 10, "agreed": 11}, {"samples": 2**63}, {"memory_bytes": 2**64 - 1},
    ],
)  # fmt: skip
def test_poisoned_evidence_is_refused_whole_and_nothing_of_the_call_is_kept(shared: RunningOrchestrator, poison: dict[str, float]) -> None:
    (device,) = shared.devices(1)
    report = device.report("SHADOW")
    report.shadow.CopyFrom(fleet_pb2.ShadowEvidence(**poison))  # type: ignore[arg-type]
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT, "shadow"):
        device.sync(report)
    assert device.sync().acknowledged_sequence == 0


def test_an_enrolment_through_a_man_in_the_middle_gives_nothing_away(shared: RunningOrchestrator, tmp_path: Path) -> None:
    """His certificate is another CA's: the device, which has the right CA from its enrolment file, sends him no token."""
    heard: list[bytes] = []

    async def listen(request: bytes, context: object) -> bytes:
        heard.append(request)
        return b""

    async def stand_between() -> None:
        his = ensure_pki(tmp_path / "his", host="127.0.0.1", now=utc(shared.clock()))
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(listen)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("kdpipe.fleet.v1.Enrollment", {"Enroll": handler}),))
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(his.server.key_pem, his.server.certificate_pem)]))
        await server.start()
        device = SimulatedDevice(replace(shared.endpoints, enrolment=port))
        with refused_with(grpc.StatusCode.UNAVAILABLE):
            await asyncio.to_thread(device.enrol, "secret")
        await server.stop(None)

    asyncio.run(stand_between())
    assert heard == []
