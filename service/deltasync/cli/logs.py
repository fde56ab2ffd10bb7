"""Logs: JSON lines in UTC where nobody watches, words on a terminal. No row values, ever."""

from __future__ import annotations

import logging
import sys

import structlog

from deltasync.errors import DeltasyncError
from deltasync.settings import Settings


def configure(settings: Settings) -> None:
    """Send structlog's events to standard error in the form that the settings ask for."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("message") if as_json else _unchanged,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def off_standard_output() -> None:
    """Send events to standard error as they come: standard output is for what a command prints."""
    structlog.configure(logger_factory=lambda *_names: structlog.PrintLogger(sys.stderr))


def are_json() -> bool:
    """True where standard error takes JSON lines and nothing else."""
    return isinstance(structlog.get_config()["processors"][-1], structlog.processors.JSONRenderer)


def failure(error: DeltasyncError) -> None:
    """Say in the log why the service ends."""
    structlog.get_logger(__name__).error("failed", reason=error.what, do=error.remedy, exit_code=error.exit_code)


def _unchanged(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event
