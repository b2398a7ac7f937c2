"""`python -m tests.bench NAME [--json]`."""

import argparse
import importlib
import pkgutil
import sys

import tests.bench

NOT_BENCHMARKS = {"__main__", "compare"}


def known() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(tests.bench.__path__) if module.name not in NOT_BENCHMARKS)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("name", choices=known())
    parser.add_argument("--json", action="store_true", help="end with one JSON object a line for each comparison")
    options = parser.parse_args(arguments)
    found = importlib.import_module(f"tests.bench.{options.name}").run()
    for comparison in found:
        print(comparison)
    if options.json:
        for comparison in found:
            print(comparison.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
