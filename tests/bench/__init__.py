"""Benchmarks. `python -m tests.bench NAME [--json]` runs one; each module here with a `run() -> list[Comparison]` is one."""
