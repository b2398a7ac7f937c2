"""`kdpipe rollout pause`. Safe to repeat: what is done already is no error."""

from workers.commands.fleet_access import AsJson, Where
from workers.commands.rollout.acting import act
from workers.commands.rollout.arguments import RolloutId


def pause(where: Where, rollout: RolloutId, as_json: AsJson = False) -> None:
    """Offer the release to nobody new, and stop the clock; gates go on."""
    act(where, rollout, "pause", as_json=as_json)
