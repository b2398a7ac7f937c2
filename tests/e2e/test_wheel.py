"""The wheel in an environment of its own: what a device gets with `pip install kdpipe`, and what that install can and cannot do."""

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.recipes import OWN, starting_files

ROOT = Path(__file__).parents[2]
CONSTRAINTS = str(ROOT / "constraints.txt")
INSTALLED_MB_MAX = 400
HEAVY = {"ray", "torch", "pyarrow", "pandas", "obstore", "onnx", "onnxscript", "scikit-learn", "scipy", "skops", "sqlalchemy", "datasketch"}
AARCH64 = [f"--platform=manylinux{tag}_aarch64" for tag in ("2014", "_2_17", "_2_24", "_2_26", "_2_27", "_2_28")]

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True, kw_only=True)
class Light:
    """A virtual environment that holds the wheel and what it asks for, nothing else."""

    wheel: Path
    bin: Path
    work: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, in a folder from which the checkout cannot be imported."""
        program, *arguments = command
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.work)}
        return subprocess.run(
            [str(self.bin / program), *arguments], capture_output=True, text=True, timeout=120, cwd=self.work, env=environment
        )


def pip(python: str | Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Light:
    folder = tmp_path_factory.mktemp("light")
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("kdpipe-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=100)
    pip(folder / "venv" / "bin" / "python", "install", "-c", CONSTRAINTS, str(wheel))
    (folder / "work").mkdir()
    return Light(wheel=wheel, bin=folder / "venv" / "bin", work=folder / "work")


def names_in(report: str) -> dict[str, str]:
    return {row["name"].lower().replace("_", "-"): row["version"] for row in json.loads(report)}


def installed(light: Light) -> dict[str, str]:
    return names_in(pip(light.bin / "python", "list", "--format=json"))


def test_the_wheel_holds_the_two_packages_their_data_and_the_licence(light: Light):
    names = zipfile.ZipFile(light.wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"pipeline", "workers"}
    assert {"pipeline/py.typed", "workers/py.typed", "workers/rpc/fleet.proto"} <= set(names)
    assert [name for name in names if name.startswith("pipeline/recipes/") and name.endswith(".toml")]
    assert {f"pipeline/recipes/{OWN}/{name}" for name in starting_files(OWN)} <= set(names)
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_a_device_gets_neither_ray_nor_torch_nor_pyarrow(light: Light):
    assert "kdpipe" in installed(light)
    assert HEAVY.isdisjoint(installed(light))


def test_a_device_s_install_is_small(light: Light):
    packages = light.bin.parent / "lib"
    installer = {"pip", "setuptools"}
    size = sum(
        path.stat().st_size for path in packages.rglob("*") if path.is_file() and installer.isdisjoint(path.relative_to(packages).parts)
    )
    print(f"installed: {size / 1e6:.0f} MB")
    assert size < INSTALLED_MB_MAX * 1e6


def test_the_device_s_commands_work_there(light: Light):
    told = light.run("kdpipe", "edge", "--help")
    assert told.returncode == 0, told.stderr
    assert "predict" in told.stdout
    assert light.run("python", "-m", "workers.edge", "--help").returncode == 0
    assert list(light.work.iterdir()) == [], "the home folder stays as it was: no caches, no ids"


def test_a_run_there_says_which_extra_to_install_and_leaves_nothing(light: Light):
    told = light.run("kdpipe", "run", "spam")
    assert told.returncode == 2
    assert "pip install 'kdpipe[cluster]'" in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stderr.count("\n") == 1
    assert list(light.work.iterdir()) == []


def test_the_doctor_works_there_and_asks_for_nothing_a_device_needs_not(light: Light):
    told = light.run("kdpipe", "doctor", "--json")
    checks = {check["name"]: check for check in map(json.loads, told.stdout.splitlines())}
    assert checks["packages device"]["ok"], checks["packages device"]
    assert checks["import"]["ok"], checks["import"]
    assert {"ray", "npm", "packages cluster"}.isdisjoint(checks)


def test_the_same_set_resolves_for_linux_on_aarch64(light: Light, tmp_path: Path):
    """Every package has a wheel for it at the pinned version: a device never compiles."""
    report = tmp_path / "report.json"
    dry = ["install", "--dry-run", "--ignore-installed", "--target", str(tmp_path / "none"), "--only-binary=:all:", "--report", str(report)]
    pip(sys.executable, *dry, *AARCH64, "--python-version=3.11", "-c", CONSTRAINTS, str(light.wheel))
    found = {item["metadata"]["name"].lower().replace("_", "-"): item for item in json.loads(report.read_text())["install"]}
    here = installed(light)
    assert {name: item["metadata"]["version"] for name, item in found.items()} == {
        name: version for name, version in here.items() if name not in ("pip", "setuptools")
    }
    urls = [item["download_info"]["url"] for item in found.values()]
    assert [url for url in urls if "onnxruntime" in url and "aarch64" in url]
    assert not [url for url in urls if "x86_64" in url]
