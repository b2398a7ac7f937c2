"""`kdpipe run`: one process that starts and supervises the rest. Each module is one duty; `run.py` reads top to bottom."""
