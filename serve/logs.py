"""The service's log: one JSON object a line, with the id of the job that it is about."""

from __future__ import annotations

import json
import logging
import sys
import time

_OWN = ("job", "attempt", "owner", "graph", "state", "seconds", "replica")


class JsonLines(logging.Formatter):
    """Formats a record as `{"time", "level", "message", "job", ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        entry |= {name: getattr(record, name) for name in _OWN if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


def log_to_stderr(form: str) -> None:
    """Send the service's log to stderr, as `json` or `text`."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else plain)
    log = logging.getLogger("rapiddraw.serve")
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)
