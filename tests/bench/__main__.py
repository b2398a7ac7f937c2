"""`python -m tests.bench NAME [--json]`."""

import argparse
import importlib
import inspect
import pkgutil
import sys

import tests.bench

NOT_BENCHMARKS = {
    "__main__",
    "compare",
    "halves",
    "labelling_peers",
    "minilm",
    "picture_students",
    "pictures",
    "reader_peers",
    "vision_losses",
    "vision_teacher",
}


def known() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(tests.bench.__path__) if module.name not in NOT_BENCHMARKS)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("name", choices=known())
    parser.add_argument("--json", action="store_true", help="end with one JSON object a line for each comparison")
    parser.add_argument("--rows", type=int, help="a smaller or larger input, where a benchmark can")
    parser.add_argument("--runs", type=int, help="turns, where a benchmark takes some")
    parser.add_argument("--student", help="one of the run file's, where a benchmark trains one")
    options = parser.parse_args(arguments)
    run = importlib.import_module(f"tests.bench.{options.name}").run
    asked = {name: value for name in ("rows", "runs", "student") if (value := getattr(options, name)) is not None}
    if unknown := set(asked) - set(inspect.signature(run).parameters):
        parser.error(f"{options.name} has no --{min(unknown)}")
    found = run(**asked)
    for comparison in found:
        print(comparison)
    if options.json:
        for comparison in found:
            print(comparison.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
