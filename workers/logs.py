"""Logs as JSON lines: one object a record, on a stream or in a file. Every process of a run logs like this.

Ours (`pipeline`, `workers`) speak from the level asked for, what others wrote from WARNING. Which file, and when it is closed, is the
process's business. Standard library only, so a device has it too.
"""

import json
import logging
from pathlib import Path
from typing import TextIO

OURS = ("pipeline", "workers")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the facts of `extra`. Names that begin with `_` are other packages' own."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "at_unix_s": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD and not key.startswith("_")},
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)


def log_as_json(where: TextIO | Path, level: int = logging.INFO) -> logging.Handler:
    """Send this process's records there, from now on. A file is appended to; closing what is returned is the caller's."""
    handler = logging.FileHandler(where, encoding="utf-8") if isinstance(where, Path) else logging.StreamHandler(where)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    return handler
