"""An agent in the test's own thread: real loop, record, slots, trust and installer, with a fleet that is one object."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from pipeline.releases.assignment import Assignment, sign_assignment
from pipeline.releases.keys import load_key
from pipeline.releases.target import ReleaseTarget
from tests.kit.bundles import NOW, Trust
from tests.kit.devices import Device
from workers.edge.agent import Agent
from workers.edge.metrics import EdgeMetrics
from workers.edge.serving import StartModel
from workers.rpc import fleet_pb2 as pb


class AgentBench:
    """A device, its agent, and the orchestrator's side of Sync. The same folder again is a restart; `boot` is inside."""

    def __init__(self, folder: Path, fleet: Trust, *, start: StartModel | None = None) -> None:
        self.fleet, self.device = fleet, Device(folder, fleet, start=start)
        self.requests: list[pb.SyncRequest] = []
        self.error: Exception | None = None
        self.assignment = b""
        self.next_sync_s = 10.0
        self.acknowledge, self.incarnation = True, 1
        self.wall = NOW.timestamp()
        self.renewals = 0
        self.registry = CollectorRegistry()

        def installer(announce: Callable[[], None]) -> Any:
            self.device.on_announce = announce
            return self.device.installer

        self.agent = Agent(
            name=lambda: "d-1", hardware="test", record=self.device.record, slots=self.device.slots, serving=self.device.serving,
            fleet=self, trust=self.device.trust, installer=installer, wall=lambda: self.wall, rng=random.Random(1),
            metrics=EdgeMetrics(self.registry), renew=self._renew, stop=self.device.stop,
        )  # fmt: skip
        self.device.installer._trusted_now = lambda: self.agent.trusted_time.now
        self.agent.boot()

    def _renew(self) -> None:
        self.renewals += 1

    def sync(self, request: pb.SyncRequest) -> pb.SyncResponse:
        copy = pb.SyncRequest()
        copy.CopyFrom(request)
        self.requests.append(copy)
        if self.error is not None:
            raise self.error
        newest = request.reports[-1].sequence if request.reports and self.acknowledge else 0
        return pb.SyncResponse(
            assignment=self.assignment,
            acknowledged_incarnation=self.incarnation,
            acknowledged_sequence=newest,
            next_sync_s=self.next_sync_s,
        )

    def assign(self, target: ReleaseTarget, generation: int, *, device: str = "d-1", issued: datetime = NOW, valid_days: float = 1) -> None:
        assignment = Assignment(
            device=device,
            target=target.path,
            digest=target.digest,
            generation=generation,
            issued=issued,
            expires=issued + timedelta(valid_days),
        )
        self.assignment = sign_assignment(assignment, load_key(self.fleet.keys / "online" / "assignment.pem"))

    def states(self) -> list[str]:
        seen = {r.sequence: pb.DeviceState.Name(r.state).removeprefix("DEVICE_STATE_") for q in self.requests for r in q.reports}
        return [seen[sequence] for sequence in sorted(seen)]
