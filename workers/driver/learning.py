"""Label while training: the students' trainers first, then the teachers, both until the generation's labels are all learnt.

Each trainer is a thread around Ray Train, the labelling is one more; this module only starts them, watches and reports. A
student that fails does not stop the others. A killed driver loses nothing: the log and the checkpoints say where each was.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import KdpipeError
from pipeline.loop.generation import Opening
from workers.board import TrainingProgress, start_board
from workers.driver.context import RunContext
from workers.driver.folder import write_json
from workers.driver.reporter import Gauge
from workers.labelling import Demand, Labelling, LabellingProgress
from workers.training import TrainingSpec, train_student

POLL_S = 0.1
