"""The core of kdpipe: data, decisions, algorithms.

Nothing here owns a process, a clock, a terminal, Ray or gRPC; I/O goes through small protocols that a test can replace.
`workers` imports `pipeline`, never the other way.
"""
