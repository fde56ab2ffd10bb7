"""Debezium's connector in both forms: as deltasync is shipped with it, and with schemas, as the JDBC sink reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

from bench.stage import Stage, run_name
from bench.topics import Topics
from deltasync import settings as settings_module
from deltasync.connect.template import load
from deltasync.settings import Settings
from deltasync.source.generated import generated
from deltasync.source.snapshot import template_variables

# How the records of a topic are written.
Form = Literal["json", "schemas"]
# What the sink cannot read: arrays as text, headers, columns' own types; it has no use for beats and signals.
_OURS = ("transforms", "converters", "raw.", "column.", "header.", "heartbeat.action", "signal", "notification")
SCHEMAS = {"key.converter.schemas.enable": "true", "value.converter.schemas.enable": "true"}


class Capture(NamedTuple):
    """A connector to be: everything that is its own is called `name`. It begins at a copy of `slot`, or now."""

    name: str
    start: Callable[[], None]
    look: Callable[[], None]


@contextmanager
def capturing(  # noqa: PLR0913 - by keyword
    stage: Stage,
    database: str,
    tables: Collection[str],
    *,
    form: Form,
    slot: str | None = None,
    changes: Mapping[str, str] | None = None,
) -> Iterator[Capture]:
    """A connector of its own with topics of its own, which are there already. `start` starts it; all goes at the end.

    It streams and reads no snapshot, unless `changes` of its settings say otherwise.
    """
    name, topics = run_name(), Topics(stage.servers.kafka.bootstrap)
    config = connector(stage, database, name, form) | {"snapshot.mode": "no_data"} | dict(changes or {})
    topics.make(name, tables)
    if slot is not None:
        stage.copy_slot(slot, name, database)
    try:
        yield Capture(name, lambda: stage.put(name, config), lambda: stage.refuse_failed(name))
    finally:
        stage.delete(name)
        stage.drop_slot(name)
        topics.delete(name)


def connector(stage: Stage, database: str, name: str, form: Form) -> dict[str, str]:
    """The shipped connector's configuration with a slot and topics of this name."""
    env = stage.env(database, database, DELTASYNC_KAFKA_TOPIC_PREFIX=name, DELTASYNC_SOURCE_SLOT=name)
    settings = settings_of(env)
    (found,) = load([], template_variables(settings), generated(settings))
    return dict(found.config) if form == "json" else _readable_by_sink(found.config)


def _readable_by_sink(shipped: Mapping[str, str]) -> dict[str, str]:
    """The shipped connector made to what the JDBC sink reads; all else stays, so that both apply the same records."""
    return {key: value for key, value in shipped.items() if not key.startswith(_OURS)} | SCHEMAS


def settings_of(env: Mapping[str, str]) -> Settings:
    """The settings that these variables stand for."""
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        return settings_module.load()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
