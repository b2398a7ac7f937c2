"""What devices call: Sync, metadata and bundles, over mTLS.

Sync is the only control call, and idempotent: what a device reports is applied once, however often it is sent, and is
acknowledged only after its commit. A call that brings nothing new is answered from memory and touches no database.
"""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import grpc

from pipeline.releases.online import BundleMissingError, OnlineRepository
from pipeline.releases.repository import MAX_METADATA_BYTES, MetadataInvalidError
from pipeline.rollout.evidence import Serving
from workers.orchestrator.engine import Engine
from workers.orchestrator.identity import caller
from workers.orchestrator.limits import Buckets, Limits, of_all
from workers.orchestrator.metrics import OrchestratorMetrics
from workers.orchestrator.pacing import Pacing
from workers.orchestrator.refusals import CallerRefusedError, OverloadedError
from workers.orchestrator.reports import (
    MAX_NUMBER,
    MAX_REPORTS,
    BodyRefusedError,
    Claims,
    DeviceReport,
    check_claims,
    check_digest,
    check_evidence,
    check_report,
    check_serving,
    claim,
    take,
)
from workers.orchestrator.roster import Arrived, DeviceRow, Roster
from workers.orchestrator.served import Served
from workers.orchestrator.writer import Session, Writer, encode_shadow
from workers.rpc import fleet_pb2, fleet_pb2_grpc

CHUNK_BYTES = 256 * 1024
Context = grpc.aio.ServicerContext[Any, Any]


class Fleet(fleet_pb2_grpc.FleetServicer):
    """Sync and GetMetadata."""

    def __init__(
        self,
        *,
        roster: Roster,
        writer: Writer,
        engine: Engine,
        repository: OnlineRepository,
        pacing: Pacing,
        limits: Limits,
        clock: Callable[[], float],
        metrics: OrchestratorMetrics,
        news: Callable[[], None],
    ) -> None:
        self._roster, self._writer, self._engine, self._repository = roster, writer, engine, repository
        self._pacing, self._clock, self._metrics, self._news = pacing, clock, metrics, news
        self._quiet_calls = of_all(limits.syncs_per_s)
        self._reports = Buckets(per_s=limits.device_reports_per_s, burst=limits.device_reports_burst)

    async def Sync(self, request: fleet_pb2.SyncRequest, context: Context) -> fleet_pb2.SyncResponse:
        if not request.reports:  # those with reports are few, by the caps of a rollout, and it waits for them
            self._quiet_calls.take("all", "the fleet", now_s=time.monotonic())
        device_id, now = caller().name, self._clock()
        claims, reports, shadows = _read(request)
        serving, arrived = _serving(request), _arrived(request)
        row = self._roster.devices[device_id]
        was_away = not self._pacing.is_present(self._roster, self._roster.seen.get(device_id, 0.0), now)
        self._roster.seen[device_id] = now
        if serving is not None:
            self._roster.served[device_id] = Served(digest=claims.running_digest, told_s=now, serving=serving)
        if arrived is not None:
            self._roster.arrived[device_id] = arrived
        told = len(take(row, reports, now=now)[1])
        if told:
            self._reports.take(device_id, "this device, with so many reports,", now_s=time.monotonic(), count=told)
        is_news = told > 0 or claim(row, claims) is not row
        if is_news or (row.device_generation > row.generation and row.target):
            row, fresh = await self._writer.run(lambda session: self._apply(session, device_id, claims, reports, shadows, now))
            for report in fresh:
                self._metrics.reported(report.state)
        if is_news or (was_away and self._roster.live(row.population)) or not row.target:
            self._news()
        self._metrics.synced(durable=is_news)
        return fleet_pb2.SyncResponse(
            assignment=row.envelope,
            acknowledged_incarnation=row.incarnation,
            acknowledged_sequence=row.sequence,
            next_sync_s=self._pacing.next_sync_s(self._roster, row),
        )

    async def GetMetadata(self, request: fleet_pb2.GetMetadataRequest, context: Context) -> fleet_pb2.GetMetadataResponse:
        most = min(request.max_bytes, MAX_METADATA_BYTES)
        try:
            content = await asyncio.to_thread(self._repository.metadata, request.name, most)
        except MetadataInvalidError as error:
            raise BundleMissingError(request.name) from error
        return fleet_pb2.GetMetadataResponse(content=content)

    def _apply(
        self, session: Session, device_id: str, claims: Claims, reports: list[DeviceReport], shadows: dict[tuple[int, int], str], now: float
    ) -> tuple[DeviceRow, list[DeviceReport]]:
        row = session.device(device_id)
        if row is None or row.is_revoked:
            raise CallerRefusedError("a device revoked a moment ago", "an enrolled one; enrol it anew")
        row, fresh = take(claim(row, claims), reports, now=now)
        row = replace(row, last_seen_s=now)
        session.put_device(row)
        for report in fresh:
            key = (report.incarnation, report.sequence)
            session.add_report(vars(report) | {"device_id": device_id, "received_s": now, "shadow": shadows.get(key)})
        return self._engine.overtake(session, row, now=now), fresh


class Artifact(fleet_pb2_grpc.ArtifactServicer):
    """Bundles in chunks, from any offset; a bounded number of downloads at once, of one device and of all, none without an end."""

    def __init__(self, *, repository: OnlineRepository, metrics: OrchestratorMetrics, limits: Limits) -> None:
        self._repository, self._metrics, self._limits = repository, metrics, limits
        self._downloads: Counter[str] = Counter()

    async def Fetch(self, request: fleet_pb2.FetchRequest, context: Context) -> AsyncIterator[fleet_pb2.FetchResponse]:
        check_digest("digest", request.digest)
        left_s, most_s = context.time_remaining() or math.inf, self._limits.download_s  # None where there is no deadline
        if left_s > most_s:  # gRPC itself ends a call at its deadline, whatever the caller does
            expected = f"one within {most_s:g} s; what did not come by then is asked for by its range"
            raise BodyRefusedError("deadline", f"in {left_s:.0f} s", expected)
        path = self._repository.bundle_path(request.digest)
        with self._place(caller().name), await asyncio.to_thread(path.open, "rb") as file:
            size = await asyncio.to_thread(_seek, file, request.offset)
            if request.offset > size:
                raise BodyRefusedError("offset", str(request.offset), f"at most {size}, the bundle's length")
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                self._metrics.served(len(chunk))
                yield fleet_pb2.FetchResponse(chunk=chunk)

    @contextlib.contextmanager
    def _place(self, device: str) -> Iterator[None]:
        """One of the device's places, and one of all. Raises OverloadedError."""
        mine, most = self._downloads[device], self._limits.device_downloads
        if mine >= most:
            raise OverloadedError(f"{mine} downloads of this device", f"at most {most} of one device at once")
        if self._downloads.total() >= self._limits.downloads:
            raise OverloadedError(f"{self._downloads.total()} downloads at once", f"at most {self._limits.downloads}")
        self._downloads[device] += 1
        try:
            yield
        finally:
            self._downloads[device] -= 1
            self._downloads += Counter()  # forgets who has none


def _seek(file: BinaryIO, offset: int) -> int:
    size = file.seek(0, 2)
    file.seek(min(offset, size))
    return size


def _read(request: fleet_pb2.SyncRequest) -> tuple[Claims, list[DeviceReport], dict[tuple[int, int], str]]:
    """The request as checked values; shadow evidence by report. Raises BodyRefusedError."""
    if len(request.reports) > MAX_REPORTS:
        raise BodyRefusedError("reports", f"{len(request.reports)} of them", f"at most {MAX_REPORTS} a call")
    claims = Claims(
        running_digest=request.running_digest,
        generation=request.assignment_generation,
        hardware=request.hardware_class,
        agent_version=request.agent_version,
        clock_wrong=request.clock_wrong,
        runtime=request.runtime_version,
        free_memory_bytes=request.free_memory_bytes,
    )
    shadows = {
        (r.incarnation, r.sequence): encode_shadow(check_evidence(_shadow(r.shadow))) for r in request.reports if r.HasField("shadow")
    }
    return check_claims(claims), [check_report(_report(report)) for report in request.reports], shadows


def _serving(request: fleet_pb2.SyncRequest) -> Serving | None:
    """How the device's model answered, checked. Raises BodyRefusedError."""
    if not request.HasField("serving"):
        return None
    told = request.serving
    return check_serving(
        Serving(
            answers=told.answers,
            confidence_mean=told.confidence_mean,
            latency_p50_ms=told.latency_p50_ms,
            asked=told.asked,
            agreed=told.agreed,
        )
    )


def _arrived(request: fleet_pb2.SyncRequest) -> Arrived | None:
    """How what the device runs came, checked; a way that a newer agent knows counts as not told. Raises BodyRefusedError."""
    if not request.HasField("arrival"):
        return None
    way, fetched_bytes = request.arrival.way, request.arrival.fetched_bytes
    if fetched_bytes > MAX_NUMBER:
        raise BodyRefusedError("arrival.fetched_bytes", str(fetched_bytes), f"at most {MAX_NUMBER}")
    known = way if way in fleet_pb2.FetchWay.values() else fleet_pb2.FETCH_WAY_UNSPECIFIED
    return Arrived(digest=request.running_digest, way=known, fetched_bytes=fetched_bytes)


def _report(report: fleet_pb2.Report) -> DeviceReport:
    return DeviceReport(
        incarnation=report.incarnation,
        sequence=report.sequence,
        generation=report.generation,
        digest=report.digest,
        state=report.state,
        failure_code=report.failure_code,
        detail=report.detail,
    )


def _shadow(shadow: fleet_pb2.ShadowEvidence) -> dict[str, Any]:
    return {field.name: getattr(shadow, field.name) for field in fleet_pb2.ShadowEvidence.DESCRIPTOR.fields}
