"""What packages would tell their makers is off, shown by the traces that they leave on disk."""

import subprocess
import sys
from pathlib import Path

from workers.privacy import OPT_OUT, opt_out

ROOT = Path(__file__).parents[2]


def test_onnxruntime_leaves_no_device_id_once_a_process_opted_out(tmp_path: Path):
    program = "import os; from workers.privacy import opt_out; opt_out(os.environ); import onnxruntime; onnxruntime.SessionOptions()"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == [], "onnxruntime has another name for its switch: see workers.privacy"


def test_what_the_owner_of_a_machine_chose_stays():
    environment = {"RAY_USAGE_STATS_ENABLED": "1"}
    opt_out(environment)
    assert environment == {**OPT_OUT, "RAY_USAGE_STATS_ENABLED": "1"}
