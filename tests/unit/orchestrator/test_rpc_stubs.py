"""The committed stubs are what the pinned generator makes of the committed .proto."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("proto", ["fleet", "local"])
def test_committed_stubs_are_regenerated_byte_for_byte(tmp_path: Path, proto: str) -> None:
    arguments = [
        "-I",
        ".",
        f"--python_out={tmp_path}",
        f"--grpc_python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
        f"workers/rpc/{proto}.proto",
    ]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], cwd=ROOT, check=True, timeout=60)
    for name in (f"{proto}_pb2.py", f"{proto}_pb2.pyi", f"{proto}_pb2_grpc.py"):
        made = (tmp_path / "workers" / "rpc" / name).read_text()
        assert made == (ROOT / "workers" / "rpc" / name).read_text(), f"{name} is stale: regenerate it (see workers/rpc/__init__.py)"


def test_stubs_load_beside_the_pinned_runtime() -> None:
    from workers.rpc import fleet_pb2, fleet_pb2_grpc

    request = fleet_pb2.SyncRequest(running_digest="ab", assignment_generation=3)
    assert fleet_pb2.SyncRequest.FromString(request.SerializeToString()) == request
    assert hasattr(fleet_pb2_grpc, "FleetStub")
    with pytest.raises(ValueError, match="unknown"):
        fleet_pb2.DeviceState.Value("unknown")
