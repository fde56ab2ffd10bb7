"""A backlog does not make a worker larger: a million records, and large rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.topics import Found, Topics, record
from tests.flow import Flow, Worker, until

from deltasync.change import Position

MIB_MAX = 250
TABLE = "shop.big"
SCHEMA = f"CREATE SCHEMA shop; CREATE TABLE {TABLE} (id bigint PRIMARY KEY, version int, name text, note text)"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("records", "rows", "size"), [(1_000_000, 400_000, 20), (200_000, 100_000, 2048)], ids=["million", "large-rows"]
)
def test_backlog(flow: Flow, records: int, rows: int, size: int) -> None:
    """Each row is inserted and then updated until there are as many records; all is there before the worker starts."""
    topics = Topics(flow)
    topics.make(TABLE)
    flow.set_up(SCHEMA)
    topics.put(TABLE, _changes(records, rows, size))
    worker = flow.start_worker()
    until(lambda: flow.ledger().get(TABLE, (0, 0))[0] >= records, f"{records} records applied", 200)
    found = flow.replica.execute(f"SELECT count(*), sum(version), min(length(note)) FROM {TABLE}").fetchone()
    versions = sum((records - 1 - row) // rows for row in range(rows))
    assert found == (rows, versions, size)
    assert _vm_hwm_mib(worker) <= MIB_MAX
    assert not worker.blamed()


@pytest.mark.timeout(300)
def test_one_transaction(flow: Flow) -> None:
    """Of 150,000 rows, applied whole: it goes through the disk, and stops where it may not take so much of that."""
    flow.settings = flow.settings.model_copy(update={"consistency": "transaction"})
    flow.env["DELTASYNC_CONSISTENCY"] = "transaction"
    flow.set_up(SCHEMA)
    until(flow.streaming, "the snapshot is complete")
    flow.source.execute(f"INSERT INTO {TABLE} SELECT n, 1, 'x', repeat('n', 100) FROM generate_series(1, 150000) n")
    little = flow.start_worker(DELTASYNC_BATCH_SPOOL_BYTES_MAX=str(2**20))
    until(lambda: "more changes than fit" in str(little.blamed()), "it has no room", 120)
    assert flow.count(TABLE) == 0
    assert _vm_hwm_mib(little) <= MIB_MAX
    little.kill()
    worker = flow.start_worker()
    until(lambda: worker.events("large transaction applied"), "it is applied", 120)
    flow.wait_equal(TABLE)
    assert _vm_hwm_mib(worker) <= MIB_MAX


def _changes(records: int, rows: int, size: int) -> Iterator[Found]:
    """Debezium's records, without a database: the template is filled in, since a million are needed."""
    note = "n" * size
    template = record(TABLE, {"id": 1, "version": 1, "name": "%NAME", "note": note}, at=Position(1, 1, 0)).value or b""
    before = b'"after": {"id": 1, "version": 1, "name": "%NAME"'
    sequence = b'"[\\"1\\", \\"1\\"]"'
    assert template.count(before) == template.count(sequence) == 1
    head, rest = template.split(before)
    middle, tail = rest.split(sequence)
    for n in range(records):
        row = b'"after":{"id":%d,"version":%d,"name":"name %d"' % (n % rows, n // rows, n)
        position = b'"[\\"%d\\",\\"%d\\"]"' % (n + 1, n + 2)
        yield Found(b'{"id":%d}' % (n % rows), b"".join((head, row, middle, position, tail)), 0, [])


def _vm_hwm_mib(worker: Worker) -> float:
    """The most memory that the process ever held."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
