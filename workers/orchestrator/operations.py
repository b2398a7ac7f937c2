"""What operators call, on a port of its own: tokens, releases, rollouts, and a look at the fleet.

Every call can be repeated after a lost answer: a rollout's id is chosen by the caller, publishing the same again changes
nothing, and an action that is done already is no error.
"""

import asyncio
import itertools
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import grpc

from pipeline.releases.bundle import MAX_BUNDLE_BYTES
from pipeline.releases.online import OnlineRepository
from pipeline.rollout.rollout import Rollout, Stage, WavePhase
from pipeline.rollout.steering import Action
from workers.orchestrator.engine import Engine, Order, RolloutUnknownError
from workers.orchestrator.enrolment import create_tokens
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.pki import DEVICE_ID, LOCAL, OPERATOR_NAME, utc
from workers.orchestrator.refusals import CallerRefusedError
from workers.orchestrator.reports import BodyRefusedError
from workers.orchestrator.roster import DeviceRow, Roster
from workers.orchestrator.writer import Session, Writer
from workers.rpc import fleet_pb2, fleet_pb2_grpc

MAX_TOKENS = 1_000
MAX_TOKEN_S = 30 * 86_400.0
DEFAULT_TOKEN_S = 86_400.0
MAX_WAVES = 50
DEFAULT_LOST_S = 60.0
PAGE = 1_000

Context = grpc.aio.ServicerContext[Any, Any]
_POPULATION = re.compile(r"[a-z][a-z0-9_-]{0,40}")
_ROLLOUT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")

_ACTIONS = {fleet_pb2.RolloutAction.Value(f"ROLLOUT_ACTION_{action.name}"): action for action in Action}


class Operations(fleet_pb2_grpc.OperatorServicer):
    """The operator's service."""

    def __init__(
        self,
        *,
        roster: Roster,
        writer: Writer,
        engine: Engine,
        repository: OnlineRepository,
        clock: Callable[[], float],
        metrics: OrchestratorMetrics,
        news: Callable[[], None],
    ) -> None:
        self._roster, self._writer, self._engine, self._repository = roster, writer, engine, repository
        self._clock, self._metrics, self._news = clock, metrics, news

    async def CreateToken(self, request: fleet_pb2.CreateTokenRequest, context: Context) -> fleet_pb2.CreateTokenResponse:
        _check(_POPULATION, "population", request.population)
        count, valid_s = request.count or 1, request.valid_s or DEFAULT_TOKEN_S
        if count > MAX_TOKENS:
            raise BodyRefusedError("count", str(count), f"at most {MAX_TOKENS}")
        if not 0 < valid_s <= MAX_TOKEN_S:
            raise BodyRefusedError("valid_s", str(valid_s), f"above 0, at most {MAX_TOKEN_S:g}")
        expires_s = self._clock() + valid_s
        tokens = await self._writer.run(lambda s: create_tokens(s, population=request.population, count=count, expires_s=expires_s))
        return fleet_pb2.CreateTokenResponse(tokens=tokens)

    async def RevokeDevice(self, request: fleet_pb2.RevokeDeviceRequest, context: Context) -> fleet_pb2.RevokeDeviceResponse:
        _check(DEVICE_ID, "device_id", request.device_id)

        def revoke(session: Session) -> None:
            row = session.device(request.device_id)
            if row is None:
                raise CallerRefusedError(f"no device {request.device_id}", "an enrolled device")
            session.put_device(replace(row, is_revoked=True))

        await self._writer.run(revoke)
        self._news()
        return fleet_pb2.RevokeDeviceResponse()

    async def RevokeOperator(self, request: fleet_pb2.RevokeOperatorRequest, context: Context) -> fleet_pb2.RevokeOperatorResponse:
        _check(OPERATOR_NAME, "name", request.name)
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
        order, now = _order(request), self._clock()
        salt = secrets.token_hex(16)
        rollout = await self._writer.run(lambda session: self._engine.order(session, order, salt=salt, now=now))
        return fleet_pb2.CreateRolloutResponse(rollout=describe(rollout))

    async def ControlRollout(self, request: fleet_pb2.ControlRolloutRequest, context: Context) -> fleet_pb2.ControlRolloutResponse:
        action = _ACTIONS.get(request.action)
        if action is None:
            raise BodyRefusedError("action", str(request.action), ", ".join(_ACTIONS.values()))
        now = self._clock()
        rollout = await self._writer.run(lambda session: self._engine.act(session, request.rollout_id, action, now=now))
        self._news()
        return fleet_pb2.ControlRolloutResponse(rollout=describe(rollout))

    async def GetRollout(self, request: fleet_pb2.GetRolloutRequest, context: Context) -> fleet_pb2.GetRolloutResponse:
        known = self._roster.rollouts.get(request.rollout_id)
        if known is None:
            known = await self._writer.run(lambda session: self._engine.find(session, request.rollout_id))
        if known is None:
            raise RolloutUnknownError(request.rollout_id)
        return fleet_pb2.GetRolloutResponse(rollout=describe(known))

    async def GetFleet(self, request: fleet_pb2.GetFleetRequest, context: Context) -> fleet_pb2.GetFleetResponse:
        size = min(request.page_size or PAGE, PAGE)
        after = request.after_device_id
        rows = sorted((row for row in list(self._roster.devices.values()) if row.device_id > after), key=lambda row: row.device_id)
        page = rows[:size]
        rollouts = () if after else sorted(self._roster.rollouts.values(), key=lambda rollout: rollout.last_event_s)
        return fleet_pb2.GetFleetResponse(
            devices=[self._device(row) for row in page],
            rollouts=[describe(rollout) for rollout in rollouts],
            next_after_device_id=page[-1].device_id if len(rows) > size else "",
        )

    def _device(self, row: DeviceRow) -> fleet_pb2.Device:
        return fleet_pb2.Device(
            device_id=row.device_id,
            population=row.population,
            hardware_class=row.hardware,
            running_digest=row.running_digest,
            state=row.state,  # type: ignore[arg-type]  # an enum is a number on the wire
            failure_code=row.failure_code,
            last_seen_unix_s=max(row.last_seen_s, self._roster.seen.get(row.device_id, 0.0)),
            revoked=row.is_revoked,
        )

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


def describe(rollout: Rollout) -> fleet_pb2.Rollout:
    """A rollout as operators see it."""
    plan = rollout.plan
    return fleet_pb2.Rollout(
        rollout_id=plan.rollout_id,
        population=plan.population,
        target=plan.target,
        digest=plan.digest,
        state=f"ROLLOUT_STATE_{rollout.state.name}",
        phase="WAVE_PHASE_UNSPECIFIED" if rollout.phase is WavePhase.NONE else f"WAVE_PHASE_{rollout.phase.name}",
        wave=rollout.wave,
        waves=len(plan.waves),
        devices=len(rollout.members) - rollout.count(Stage.LEFT),
        offered=rollout.count(Stage.OFFERED),
        confirmed=rollout.count(Stage.CONFIRMED),
        failed=rollout.count(Stage.FAILED),
        lost=rollout.count(Stage.LOST),
        incompatible=rollout.count(Stage.INCOMPATIBLE),
        reason=rollout.reason,
        paused=rollout.paused,
    )


def _order(request: fleet_pb2.CreateRolloutRequest) -> Order:
    _check(_ROLLOUT_ID, "rollout_id", request.rollout_id)
    _check(_POPULATION, "population", request.population)
    waves = tuple(request.waves)
    grows = all(low < high for low, high in itertools.pairwise((0.0, *waves)))  # false for NaN too
    if not 0 < len(waves) <= MAX_WAVES or not grows or waves[-1] != 1.0:
        raise BodyRefusedError("waves", f"{list(waves)[:10]}", f"at most {MAX_WAVES} shares that grow from above 0 to 1.0")
    lost_after_s = request.lost_after_s or min(DEFAULT_LOST_S, request.deadline_s)
    for field, value, least in (
        ("soak_s", request.soak_s, -1.0),
        ("deadline_s", request.deadline_s, 0.0),
        ("lost_after_s", lost_after_s, 0.0),
    ):
        if not least < value < 1e8 or value < 0:
            raise BodyRefusedError(field, str(value), "seconds")
    return Order(
        rollout_id=request.rollout_id,
        population=request.population,
        target=request.target,
        waves=waves,
        soak_s=request.soak_s,
        deadline_s=request.deadline_s,
        lost_after_s=lost_after_s,
    )


def _check(pattern: re.Pattern[str], field: str, found: str) -> None:
    if not pattern.fullmatch(found):
        raise BodyRefusedError(field, f"{found!r:.100}", f"a name like {pattern.pattern}")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
