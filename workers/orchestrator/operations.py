"""What operators call, on a port of its own: tokens, releases, rollouts, and a look at the fleet.

Every call can be repeated after a lost answer: a rollout's id is chosen by the caller, publishing the same again changes
nothing, and an action that is done already is no error.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import grpc

from pipeline.releases.bundle import MAX_BUNDLE_BYTES
from pipeline.releases.online import OnlineRepository
from pipeline.rollout.events import encode_facts
from pipeline.rollout.rollout import Rollout
from pipeline.rollout.steering import Action
from workers.orchestrator.describe import describe, describe_device, describe_forecast
from workers.orchestrator.engine import Engine, RolloutUnknownError
from workers.orchestrator.enrolment import create_tokens
from workers.orchestrator.leadership import Leadership
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.orders import LABEL, LABEL_NAME, MAX_NAMED, POPULATION, ROLLOUT_ID, check_pattern, read_order
from workers.orchestrator.pacing import Pacing
from workers.orchestrator.pki import DEVICE_ID, LOCAL, OPERATOR_NAME, utc
from workers.orchestrator.ports import Ports
from workers.orchestrator.refusals import CallerRefusedError, DeviceUnknownError
from workers.orchestrator.reports import MAX_NUMBER, BodyRefusedError
from workers.orchestrator.roster import DeviceRow, Roster, read_events
from workers.orchestrator.salts import salt_of
from workers.orchestrator.writer import Session, Writer
from workers.rpc import fleet_pb2, fleet_pb2_grpc

MAX_TOKENS = 1_000
MAX_TOKEN_S = 30 * 86_400.0
DEFAULT_TOKEN_S = 86_400.0
PAGE = 1_000
EVENTS_PAGE, EVENTS_BYTES = 500, 2 * 1024 * 1024

Context = grpc.aio.ServicerContext[Any, Any]
_ACTIONS = {fleet_pb2.RolloutAction.Value(f"ROLLOUT_ACTION_{action.name}"): action for action in Action}


class Operations(fleet_pb2_grpc.OperatorServicer):
    """The operator's service."""

    def __init__(
        self,
        *,
        roster: Roster,
        writer: Writer,
        engine: Engine,
        leadership: Leadership,
        repository: OnlineRepository,
        pacing: Pacing,
        clock: Callable[[], float],
        metrics: OrchestratorMetrics,
        news: Callable[[], None],
        ports: Callable[[], Ports],
    ) -> None:
        self._roster, self._writer, self._engine, self._repository = roster, writer, engine, repository
        self._pacing, self._clock, self._metrics, self._news = pacing, clock, metrics, news
        self._leadership, self._ports = leadership, ports

    async def CreateToken(self, request: fleet_pb2.CreateTokenRequest, context: Context) -> fleet_pb2.CreateTokenResponse:
        check_pattern(POPULATION, "population", request.population)
        count, valid_s = request.count or 1, request.valid_s or DEFAULT_TOKEN_S
        if count > MAX_TOKENS:
            raise BodyRefusedError("count", str(count), f"at most {MAX_TOKENS}")
        if not 0 < valid_s <= MAX_TOKEN_S:
            raise BodyRefusedError("valid_s", str(valid_s), f"above 0, at most {MAX_TOKEN_S:g}")
        expires_s = self._clock() + valid_s
        tokens = await self._writer.run(lambda s: create_tokens(s, population=request.population, count=count, expires_s=expires_s))
        ports = self._ports()
        return fleet_pb2.CreateTokenResponse(tokens=tokens, enrolment_port=ports.enrolment, fleet_port=ports.fleet)

    async def RevokeDevice(self, request: fleet_pb2.RevokeDeviceRequest, context: Context) -> fleet_pb2.RevokeDeviceResponse:
        check_pattern(DEVICE_ID, "device_id", request.device_id)

        def revoke(session: Session) -> None:
            row = session.device(request.device_id)
            if row is None:
                raise DeviceUnknownError(request.device_id)
            session.put_device(replace(row, is_revoked=True))

        await self._writer.run(revoke)
        self._news()
        return fleet_pb2.RevokeDeviceResponse()

    async def RevokeOperator(self, request: fleet_pb2.RevokeOperatorRequest, context: Context) -> fleet_pb2.RevokeOperatorResponse:
        check_pattern(OPERATOR_NAME, "name", request.name)
        if request.name == LOCAL:
            raise CallerRefusedError(f"the operator {LOCAL}, whom the orchestrator's own folder makes", "another operator's name")
        now = self._clock()
        await self._writer.run(lambda session: session.revoke_operator(request.name, now=now))
        return fleet_pb2.RevokeOperatorResponse()

    async def Publish(self, parts: AsyncIterator[fleet_pb2.PublishRequest], context: Context) -> fleet_pb2.PublishResponse:
        first = await anext(aiter(parts), None)
        if first is None or first.WhichOneof("part") != "release_metadata":
            raise BodyRefusedError("publish", "bundle bytes first", "the signed metadata first")
        upload = self._repository.upload_path(secrets.token_hex(8))
        try:
            length = await self._receive(parts, upload)
            bundle = upload if length else None
            version = await asyncio.to_thread(self._repository.publish, first.release_metadata, bundle, now=utc(self._clock()))
        finally:
            await asyncio.to_thread(upload.unlink, missing_ok=True)
        self._metrics.published()
        return fleet_pb2.PublishResponse(snapshot_version=version)

    async def CreateRollout(self, request: fleet_pb2.CreateRolloutRequest, context: Context) -> fleet_pb2.CreateRolloutResponse:
        order, now = read_order(request), self._clock()
        rollout = await self._writer.run(
            lambda session: self._engine.order(session, order, salt=salt_of(session, order.rollout_id), now=now)
        )
        return fleet_pb2.CreateRolloutResponse(rollout=describe(rollout, self._roster.arrived))

    async def PlanRollout(self, request: fleet_pb2.PlanRolloutRequest, context: Context) -> fleet_pb2.PlanRolloutResponse:
        order, now = read_order(request.order), self._clock()
        sync_s = self._pacing.busy_interval_s(self._roster)
        plan, forecast = await self._writer.run(
            lambda session: self._engine.foresee(session, order, salt=salt_of(session, order.rollout_id), now=now, sync_s=sync_s)
        )
        return describe_forecast(plan, forecast, sync_s=sync_s)

    async def ControlRollout(self, request: fleet_pb2.ControlRolloutRequest, context: Context) -> fleet_pb2.ControlRolloutResponse:
        action = _ACTIONS.get(request.action)
        if action is None:
            raise BodyRefusedError("action", str(request.action), ", ".join(_ACTIONS.values()))
        check_pattern(ROLLOUT_ID, "rollout_id", request.rollout_id)
        now = self._clock()
        rollout = await self._writer.run(lambda session: self._act(session, request.rollout_id, action, now))
        self._news()
        return fleet_pb2.ControlRolloutResponse(rollout=describe(rollout, self._roster.arrived))

    def _act(self, session: Session, rollout_id: str, action: Action, now: float) -> Rollout:
        """The action on any replica; what follows from evidence at once where this one leads, and else in the leader's next pass."""
        rollout = self._engine.act(session, rollout_id, action, now=now)
        if self._leadership.holds(session.connection):
            self._engine.tick(session, now=now)
        return session.all_rollouts().get(rollout_id, rollout)

    async def GetRollout(self, request: fleet_pb2.GetRolloutRequest, context: Context) -> fleet_pb2.GetRolloutResponse:
        check_pattern(ROLLOUT_ID, "rollout_id", request.rollout_id)
        return fleet_pb2.GetRolloutResponse(rollout=describe(await self._find(request.rollout_id), self._roster.arrived))

    async def GetRolloutEvents(self, request: fleet_pb2.GetRolloutEventsRequest, context: Context) -> fleet_pb2.GetRolloutEventsResponse:
        check_pattern(ROLLOUT_ID, "rollout_id", request.rollout_id)
        rollout_id, after = request.rollout_id, min(request.after_sequence, MAX_NUMBER)
        if rollout_id not in self._roster.broken:  # whoever audits it must see it as it is
            await self._find(rollout_id)
        found = await self._writer.run(lambda session: read_events(session.connection, rollout_id, after=after, limit=EVENTS_PAGE))
        page: list[fleet_pb2.RolloutEvent] = []
        room = EVENTS_BYTES
        for event in found:
            facts = encode_facts(event.facts)
            room -= len(facts)
            if page and room < 0:
                break
            page.append(
                fleet_pb2.RolloutEvent(sequence=event.sequence, at_s=event.at_s, kind=str(event.kind), facts_json=facts, hash=event.hash)
            )
        return fleet_pb2.GetRolloutEventsResponse(events=page, is_last=len(page) == len(found) < EVENTS_PAGE)

    async def LabelDevice(self, request: fleet_pb2.LabelDeviceRequest, context: Context) -> fleet_pb2.LabelDeviceResponse:
        check_pattern(DEVICE_ID, "device_id", request.device_id)
        for label in request.set:
            check_pattern(LABEL, "set", label)
        for name in request.remove:
            check_pattern(LABEL_NAME, "remove", name)
        gone = {label.partition("=")[0] for label in request.set} | set(request.remove)

        def relabel(session: Session) -> DeviceRow:
            row = session.device(request.device_id)
            if row is None:
                raise DeviceUnknownError(request.device_id)
            kept = [label for label in row.labels.split(",") if label and label.partition("=")[0] not in gone]
            labels = sorted({*kept, *request.set})
            if len(labels) > MAX_NAMED:
                raise BodyRefusedError("set", f"{len(labels)} labels in all", f"at most {MAX_NAMED}")
            row = replace(row, labels=",".join(labels))
            session.put_device(row)
            return row

        row = await self._writer.run(relabel)
        self._news()
        return fleet_pb2.LabelDeviceResponse(device=self._device(row))

    async def _find(self, rollout_id: str) -> Rollout:
        known = self._roster.rollouts.get(rollout_id)
        if known is None:
            known = await self._writer.run(lambda session: self._engine.find(session, rollout_id))
        if known is None:
            raise RolloutUnknownError(rollout_id)
        return known

    async def GetFleet(self, request: fleet_pb2.GetFleetRequest, context: Context) -> fleet_pb2.GetFleetResponse:
        size = min(request.page_size or PAGE, PAGE)
        after = request.after_device_id
        rows = sorted((row for row in list(self._roster.devices.values()) if row.device_id > after), key=lambda row: row.device_id)
        page = rows[:size]
        rollouts = () if after else sorted(self._roster.rollouts.values(), key=lambda rollout: rollout.last_event_s)
        broken = () if after else list(self._roster.broken.values())
        return fleet_pb2.GetFleetResponse(
            devices=[self._device(row) for row in page],
            rollouts=[describe(rollout, self._roster.arrived) for rollout in rollouts],
            next_after_device_id=page[-1].device_id if len(rows) > size else "",
            broken_rollouts=[
                fleet_pb2.BrokenRollout(rollout_id=log.rollout_id, population=log.population, reason=str(log.error)) for log in broken
            ],
        )

    def _device(self, row: DeviceRow) -> fleet_pb2.Device:
        roster, device = self._roster, row.device_id
        served, arrived = roster.served.get(device), roster.arrived.get(device)
        return describe_device(row, last_seen_s=roster.seen.get(device, 0.0), served=served, arrived=arrived)

    async def _receive(self, parts: AsyncIterator[fleet_pb2.PublishRequest], upload: Path) -> int:
        length = 0
        with await asyncio.to_thread(upload.open, "wb") as file:
            async for part in parts:
                if part.WhichOneof("part") != "chunk":
                    raise BodyRefusedError("publish", "metadata twice", "bundle bytes after the metadata")
                length += len(part.chunk)
                if length > MAX_BUNDLE_BYTES:
                    raise BodyRefusedError("publish", f"more than {MAX_BUNDLE_BYTES} bytes", "a bundle")
                await asyncio.to_thread(file.write, part.chunk)
            await asyncio.to_thread(_sync, file)
        return length


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
