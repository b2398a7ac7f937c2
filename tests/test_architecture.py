"""The house rules that hold the tree together: layers, sizes, names, what an import may do, and what a device must never need.

ruff holds the rules of single lines and functions (style, statements a function, banned calls); `make lint` runs it.
"""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")
MODULE_LINES_MAX = 400

LIGHT = ("workers.cli", "workers.edge", "workers.metrics", "workers.doctor", "workers.rpc", "pipeline.releases", "pipeline.rollout")
"""What a device's install must be able to import, with all that lies below."""
EDGE = ("workers.edge", "workers.rpc", "workers.metrics", "pipeline.releases", "pipeline.rollout", "pipeline.inputs", "pipeline.files")
"""What runs on a device; reaches only the light set, lazily or not."""
# fmt: off
HEAVY = {
    "datasketch", "datasets", "joblib", "obstore", "onnx", "onnxscript", "pandas", "psutil", "pyarrow", "ray",
    "scipy", "skops", "sklearn", "sqlalchemy", "torch", "transformers",
}
# fmt: on


def python_files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) if not GENERATED.search(path.name)]
    assert found
    return found


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("pipeline", "workers", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None)


def test_the_layers_hold():
    lint = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], capture_output=True, text=True, timeout=100, cwd=ROOT
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize("path", python_files("pipeline", "workers", "tests"), ids=named)
def test_a_module_says_what_it_does(path: Path):
    module = ast.parse(path.read_text())
    assert not module.body or ast.get_docstring(module), "begin with what it does, what it leaves to others, what always holds"


@pytest.mark.parametrize("path", python_files("pipeline", "workers", "tests/kit"), ids=named)
def test_a_module_stays_short(path: Path):
    assert path.read_text().count("\n") <= MODULE_LINES_MAX, "one noun a module: split it"


@pytest.mark.parametrize("path", python_files("pipeline", "workers", "tests"), ids=named)
def test_names_say_what_a_thing_is(path: Path):
    nowhere = {"util", "utils", "helper", "helpers", "common", "misc"}
    assert nowhere.isdisjoint(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            assert not re.search(r"(Manager|Helper|Handler|Processor|Utils?)$", node.name), f"{node.name} names no thing"


def foreign_imports(graph: grimp.ImportGraph, modules: set[str]) -> Iterator[tuple[str, str]]:
    """(module, distribution) for each import of another package by one of `modules`."""
    distributions = importlib.metadata.packages_distributions()
    for module in modules:
        for imported in graph.find_modules_directly_imported_by(module):
            package = imported.partition(".")[0]
            if package not in ("pipeline", "workers", "__future__") and package not in sys.stdlib_module_names:
                names = distributions.get(package, [package])
                yield module, "protobuf" if "protobuf" in names else canonicalize_name(names[0])


def declared(*extras: str) -> set[str]:
    """Distributions that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_whatever_is_imported_is_declared(graph: grimp.ImportGraph):
    ours = {module for module in graph.modules if module.partition(".")[0] in ("pipeline", "workers")}
    missing = {pair for pair in foreign_imports(graph, ours) if pair[1] not in declared("cluster") | declared("transformers")}
    assert not missing, "add it to pyproject.toml: what brings it today may stop tomorrow"


def test_a_device_reaches_only_the_light_set_even_lazily(graph: grimp.ImportGraph):
    reached: set[str] = set()
    for root in EDGE:
        assert root in graph.modules
        reached |= {root} | graph.find_descendants(root)
    for module in tuple(reached):
        reached |= graph.find_upstream_modules(module)
    ours = {module for module in reached if module.partition(".")[0] in ("pipeline", "workers")}
    missing = {pair for pair in foreign_imports(graph, ours) if pair[1] not in declared()}
    assert not missing


WATCH = """
import json, os, pkgutil, sys, threading
def seen():
    return {"environment": dict(os.environ), "files": sorted(os.listdir("."))}
before = seen()
import importlib
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for below in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        if not below.name.endswith(".__main__"):
            importlib.import_module(below.name)
after = seen()
targets = [os.readlink(f"/proc/self/fd/{d}") for d in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{d}")]
print(json.dumps({
    "packages": sorted({name.partition(".")[0] for name in sys.modules}),
    "changed": [key for key in before if before[key] != after[key]],
    "threads": [thread.name for thread in threading.enumerate()],
    "sockets": [target for target in targets if target.startswith("socket:")],
}))
"""


def test_importing_what_a_device_needs_brings_nothing_heavy_and_does_nothing(tmp_path: Path):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    told = subprocess.run(
        [sys.executable, "-c", WATCH, *LIGHT],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=work,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(home)},
    )
    assert told.returncode == 0, told.stderr
    seen = json.loads(told.stdout)
    assert not HEAVY & set(seen["packages"])
    assert seen["changed"] == []
    assert seen["threads"] == ["MainThread"]
    assert seen["sockets"] == []


def test_the_command_opts_out_of_what_packages_report_before_it_does_anything():
    """What it starts inherits that; `workers.privacy` says what it is."""
    tree = ast.parse((ROOT / "workers/cli.py").read_text())
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    acts = [ast.unparse(node) for node in main.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    assert acts[0] == "opt_out(os.environ)"


@pytest.mark.parametrize("path", python_files("pipeline"), ids=named)
def test_nothing_in_the_core_runs_when_it_is_imported(path: Path):
    calls = [node.lineno for node in ast.parse(path.read_text()).body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    assert not calls, "a call at module level runs at import"


def test_groups_of_tests_reach_the_distributor(request: pytest.FixtureRequest) -> None:
    """Two tests that start Ray at once fight for two cores; a pytest that the distributor cannot mark would let them, in silence."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith(f"@{request.node.path}")
