"""`kdpipe rollout resume`. Safe to repeat: what is done already is no error."""

from workers.commands.fleet_access import AsJson, Where
from workers.commands.rollout.acting import act
from workers.commands.rollout.arguments import RolloutId


def resume(where: Where, rollout: RolloutId, as_json: AsJson = False) -> None:
    """Go on after a pause or a halt: you have seen the failures so far, they count no more."""
    act(where, rollout, "resume", as_json=as_json)
