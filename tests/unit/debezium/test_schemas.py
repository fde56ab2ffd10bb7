"""A schema in front of a value is taken apart, and put back where the whole value is asked for."""

from __future__ import annotations

import pytest

from deltasync.change import Partition, Record, Told
from deltasync.debezium.schemas import Schemas

P0, P1 = Partition("p.shop.t", 0), Partition("p.shop.u", 0)
FRONT = b'{"schema":{"type":"struct","name":"a,\\"payload\\":{"},"payload":'
OTHER = b'{"schema":{"type":"struct","name":"b"},"payload":'


class Delivered(Told):
    """A message that remembers which value it has."""

    values: list[bytes]

    def set_value(self, value: bytes, /) -> None:
        self.values.append(value)


def record(value: bytes | None, partition: Partition = P0, offset: int = 0) -> Record:
    message = Delivered()
    message.values = []
    return Record(partition, offset, b"{}", value, message)


def test_each_partition_has_its_schema_until_it_changes() -> None:
    """What comes behind is told by its own bytes, and the client's message keeps the payload alone."""
    schemas = Schemas()
    records = [
        record(FRONT + b'{"op":"c"}}'),
        record(OTHER + b'{"op":"u"}}', P1),
        record(None),
        record(OTHER + b'{"op":"d"}}'),
        record(b'{"op":"r"}'),
        record(FRONT + b'{"op":"c"}}'),
    ]
    found = schemas.apart(records)
    assert [one.value for one in found] == [
        *(b'{"op":"c"}', b'{"op":"u"}', None, b'{"op":"d"}', b'{"op":"r"}', b'{"op":"c"}')
    ]
    assert [one.whole for one in found] == [one.value for one in records]
    assert [one.message.values for one in found if isinstance(one.message, Delivered)] == [
        *([b'{"op":"c"}'], [b'{"op":"u"}'], [], [b'{"op":"d"}'], [], [b'{"op":"c"}'])
    ]


@pytest.mark.parametrize(
    "value",
    [
        b'{"op":"c"}',
        None,
        b'{"schema": {}, "payload": {}}',
        b'{"schema":{},"payload":null}',
        b'{"schema":{}}',
        b'{"schema":{"a',
        FRONT + b'{"op":"c"}',
        FRONT + b'{"op":"c"}} ',
    ],
)
def test_anything_else_stays_as_it_is(value: bytes | None) -> None:
    """Its reader says what is wrong with it."""
    found = Schemas().apart([record(FRONT + b'{"op":"c"}}'), record(value)])
    assert (found[1].value, found[1].whole) in {(value, value), (b'{"op":"c"', value)}


def test_without_a_schema_nothing_is_looked_at() -> None:
    """The first record of many tells."""
    records = [record(b'{"op":"c"}'), record(FRONT + b'{"op":"c"}}')]
    assert Schemas().apart(records) is records
