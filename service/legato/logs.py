"""Log lines: one JSON object a line for machines, one short line for people.

Fields travel as `log.info("message", extra={"fields": {"session": id}})`.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import TextIO


class JsonFormatter(logging.Formatter):
    """{"time", "level", "logger", "message", fields..., "exception"} on one line; time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class HumanFormatter(logging.Formatter):
    """`12:00:01 info message key=value`, and the traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        clock = self.formatTime(record, "%H:%M:%S")
        fields = "".join(f" {key}={value}" for key, value in getattr(record, "fields", {}).items())
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is now: a stream that was swapped and closed since is not missed."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(form: str, level: str, stream: TextIO | None = None) -> None:
    """Sends the log of this process to `stream` (default stderr). `form`: auto (human on a terminal), human or json."""
    human = form == "human" or (form == "auto" and (stream or sys.stderr).isatty())
    handler = logging.StreamHandler(stream) if stream else _Stderr()
    handler.setFormatter(HumanFormatter() if human else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
