"""The device's side: an agent that enrols, syncs, installs and answers.

`agent` is the loop, `install` the steps of one release, `serving` what answers, `asking` who asks the teacher, `model_worker` the process
that holds the model. Imports neither ray, torch nor pyarrow, and the model worker only numpy and onnxruntime.
"""

AGENT_VERSION = "0.1.0"
BUILD_UNIX_S = 1_793_491_200
"""This code is not older than that (2026-11-01): no device's clock is believed to be earlier."""
