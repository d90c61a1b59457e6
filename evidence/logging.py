"""Structured logs that hold nothing personal: one JSON object a line, with the request id that an item carries through."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

_request_id: ContextVar[str] = ContextVar("request_id", default="")
# Only these members of a record are ever written: an argument that slipped in by mistake is not.
_MEMBERS = (
    "request_id",
    "evidence_id",
    "leaf_index",
    "chain",
    "failures",
    "tx_id",
    "height",
    "size",
    "items",
    "state",
    "start",
    "end",
    "requests",
    "route",
    "status",
    "ms",
)


def name_request(request_id: str) -> None:
    """Everything this task logs from now on carries `request_id`."""
    _request_id.set(request_id)


def current_request_id() -> str:
    """The id of the request being served, or an empty text."""
    return _request_id.get()


class JSONFormatter(logging.Formatter):
    """One line of JSON a record: time, level, logger, event, and the known members."""

    def format(self, record: logging.LogRecord) -> str:
        """The line. A traceback is cut to the names of the errors: its text may quote data."""
        value: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        bound = _request_id.get()
        if bound:
            value["request_id"] = bound
        value.update({name: getattr(record, name) for name in _MEMBERS if hasattr(record, name)})
        if record.exc_info and record.exc_info[0] is not None:
            value["error"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                value["at"] = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        return json.dumps(value, ensure_ascii=False)


def configure(*, level: int = logging.INFO) -> None:
    """All logs of the process go to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
