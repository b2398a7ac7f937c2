"""Labelling: teacher actors, the pool that holds as many as pay, and the committer that makes what they say durable.

Labelling   plan, run, repair; what the driver owns
Session     one run's loop: observe, decide, execute
Committer   the one writer of commits, windows and ends
Crew        teachers somewhere: Ray actors around `Labeller`
"""

from workers.labelling.labelling import Labelling
from workers.labelling.reports import Demand, LabellingOutcome, LabellingProgress, PlanSummary

__all__ = ["Demand", "Labelling", "LabellingOutcome", "LabellingProgress", "PlanSummary"]
