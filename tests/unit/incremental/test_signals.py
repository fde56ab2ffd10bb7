"""Whether a connector hears what it is asked, and what is asked of it."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from psycopg import Connection

from deltasync.connect.client import ConnectClient, NoConnectorError
from deltasync.connect.status import State, Status, Unit
from deltasync.connect.template import shipped
from deltasync.errors import RefusedError
from deltasync.incremental import signals
from deltasync.settings import Settings

SETTINGS = Settings.model_validate({"pipeline": "shop"})
SHIPPED: dict[str, str] = json.loads(shipped().read_text())["config"]


class Source:
    """A source that answers every query alike, and keeps what it was asked."""

    def __init__(self, *row: object) -> None:
        self.row = row
        self.asked: list[Any] = []

    def execute(self, _query: str, values: object = None) -> Source:
        self.asked.append(values)
        return self

    def fetchone(self) -> tuple[object, ...]:
        return self.row


class Connect:
    """A Connect with this connector, or none."""

    def __init__(self, config: dict[str, str] | None, state: State = State.RUNNING) -> None:
        self._config, self._state = config, state

    def config(self, name: str) -> dict[str, str]:
        if self._config is None:
            raise NoConnectorError(name, remedy="")
        return self._config

    def status(self, name: str) -> Status:
        return Status(name, Unit(self._state), (Unit(self._state, id=0),))


def refuse(source: Source, connect: Connect) -> None:
    signals.refuse_unready(SETTINGS, cast("Connection", source), cast("ConnectClient", connect))


def test_the_shipped_connector_hears() -> None:
    refuse(Source(True), Connect(SHIPPED))  # noqa: FBT003 - a row


@pytest.mark.parametrize(
    "key",
    ["signal.enabled.channels", "signal.data.collection", "notification.enabled.channels", "driver.binaryTransfer"],
)
def test_a_connector_from_before_is_told_what_to_run(key: str) -> None:
    old = {name: value for name, value in SHIPPED.items() if name != key}
    with pytest.raises(RefusedError, match="shop-source was applied before") as error:
        refuse(Source(True), Connect(old))  # noqa: FBT003 - a row
    assert error.value.remedy == "Run deltasync connectors apply."


@pytest.mark.parametrize(
    ("source", "connect", "told"),
    [
        (Source(False), Connect(SHIPPED), "The source was set up before"),  # noqa: FBT003 - a row
        (Source(True), Connect(None), "Connect has no connector shop-source"),  # noqa: FBT003 - a row
        (Source(True), Connect(SHIPPED, State.PAUSED), "shop-source is paused: it reads nothing"),  # noqa: FBT003 - a row
        (Source(True), Connect(SHIPPED, State.FAILED), "shop-source is failed: it reads nothing"),  # noqa: FBT003 - a row
    ],
)
def test_who_would_not_hear(source: Source, connect: Connect, told: str) -> None:
    with pytest.raises(RefusedError, match=told):
        refuse(source, connect)


def test_a_condition_stays_within_its_own_lines() -> None:
    """A comment of its own would hide what Debezium puts behind it."""
    source = Source(7)
    asked = signals.execute(SETTINGS, cast("Connection", source), ["shop.t"], "id > 1 -- all", {"shop.t": "hash"})
    id_, type_, data = source.asked[0]

    assert (asked.id, asked.lsn, type_) == (id_, 7, "execute-snapshot")
    assert id_.startswith("shop:")
    told = json.loads(data)
    assert told["data-collections"] == ["shop.t"]
    assert told["additional-conditions"] == [{"data-collection": "shop.t", "filter": "(id > 1 -- all\n)"}]

    again = signals.asked(cast("Connection", Source(data)), id_)
    assert again is not None
    assert (again.tables, again.where, again.shapes) == (("shop.t",), "id > 1 -- all", {"shop.t": "hash"})


def test_one_that_is_paused_is_stopped_too() -> None:
    """Debezium stops between two chunks: it has to be resumed for that."""
    source = Source()
    signals.stop(SETTINGS, cast("Connection", source))

    assert [type_ for _, type_, _ in source.asked] == ["stop-snapshot", "resume-snapshot"]
