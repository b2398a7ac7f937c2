"""A rollout as an operator wishes it, on the operator's side: a value, and the message that carries it. The server checks it (`orders`)."""

from dataclasses import dataclass

from pipeline.rollout.comparison import Margins
from pipeline.rollout.targeting import EVERY_DEVICE, Reach, Selector
from workers.rpc import fleet_pb2


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a rollout is to do. 0 and None leave it to the server."""

    rollout_id: str
    """Chosen by the caller, so that a call that is repeated after a lost answer creates nothing new."""
    population: str
    target: str
    waves: tuple[Reach, ...]
    soak_s: float
    deadline_s: float
    lost_after_s: float = 0.0
    selector: Selector = EVERY_DEVICE
    in_flight_first: int = 0
    in_flight_share: float = 0.0
    bytes_per_s: float = 0.0
    margins: Margins | None = None
    revert_on_halt: bool = False

    def to_message(self) -> fleet_pb2.CreateRolloutRequest:
        waves = [
            fleet_pb2.WaveReach(devices=reach) if isinstance(reach, int) and reach >= 0 else fleet_pb2.WaveReach(share=reach)
            for reach in self.waves
        ]
        message = fleet_pb2.CreateRolloutRequest(
            rollout_id=self.rollout_id,
            population=self.population,
            target=self.target,
            waves=waves,
            soak_s=self.soak_s,
            deadline_s=self.deadline_s,
            lost_after_s=self.lost_after_s,
            selector=fleet_pb2.Selector(**vars(self.selector)),
            in_flight_first=self.in_flight_first,
            in_flight_share=self.in_flight_share,
            bytes_per_s=self.bytes_per_s,
            revert_on_halt=self.revert_on_halt,
        )
        if self.margins is not None:
            message.margins.CopyFrom(fleet_pb2.Margins(**vars(self.margins)))
        return message
