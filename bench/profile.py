"""`python -m bench.profile`: where the time of a change goes, stage by stage, one after the other in one thread.

The stages are the service's own functions, on the records of the bench's shop. In the service the replica's part runs
beside the others.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil  # type: ignore[import-untyped]  # it ships no types
import typer
from confluent_kafka import Consumer, Message, TopicPartition

from bench.capture import settings_of
from bench.prepare import Prepared, prepare
from bench.shapes import shop
from bench.stage import Stage
from bench.staging import orderly_end, stage_in, tell
from bench.topics import topic
from deltasync import bulk
from deltasync.change import Partition, Record
from deltasync.cli import output
from deltasync.cli.run import unburden
from deltasync.debezium import envelope
from deltasync.kafka.consumer import to_record
from deltasync.local.stack import run_command
from deltasync.ports import Batch
from deltasync.progress import Claim, Progress
from deltasync.readable import Tables
from deltasync.replica.session import Replica
from deltasync.replica.tables import CANARY

_CHUNK = 1000
_TOPIC_ID = "profile"


class _Clock:
    """Seconds by stage: on the clock, and of this process's CPU."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] += time.perf_counter() - wall
        self.cpu[name] += time.process_time() - cpu


def profile(
    scale: Annotated[float, typer.Option(min=0.001, help="The size of the shop.")] = 1.0,
    stage: Annotated[Path | None, typer.Option(help="A folder for the servers, kept for the next run.")] = None,
) -> None:
    """Print what each stage of a batch costs for each change: microseconds on the clock, and of CPU.

    Example: `python -m bench.profile --scale 0.2`
    """
    unburden()
    with orderly_end(), stage_in(stage) as made:
        prepared = prepare(made, shop(scale), tell)
        with made.replica_copy(prepared.empty) as database:
            clock, records, server_s = _run(made, prepared, database)
    output.say(f"{records:,} records, microseconds for each:")
    output.say(f"{'stage':32}{'clock':>8}{'CPU':>8}")
    for name, seconds in clock.wall.items():
        output.say(f"{name:32}{seconds / records * 1e6:8.2f}{clock.cpu[name] / records * 1e6:8.2f}")
    total, cpu = (sum(one.values()) / records * 1e6 for one in (clock.wall, clock.cpu))
    output.say(f"{'in all':32}{total:8.2f}{cpu:8.2f}")
    output.say(f"{'PostgreSQL':32}{'':8}{server_s / records * 1e6:8.2f}")


def _run(stage: Stage, prepared: Prepared, database: str) -> tuple[_Clock, int, float]:
    prefix = prepared.prefix("json")
    env = stage.env(prepared.database, database, DELTASYNC_KAFKA_TOPIC_PREFIX=prefix, DELTASYNC_SOURCE_SLOT=prefix)
    run_command(env, "replica", "setup")
    settings = settings_of(env)
    base = settings_of(stage.env(prepared.database, prepared.base))
    known = Replica(base)
    tables = Tables(known.tables(), CANARY, settings.unavailable_value or "", raw_text=True)
    known.close()
    session, clock, count = Replica(settings), _Clock(), 0
    partitions = {table: Partition(topic(prefix, table), 0) for table in prepared.rows}
    at = session.open(dict.fromkeys(partitions.values(), _TOPIC_ID))
    progress = {partition: found for partition, found in at.items() if isinstance(found, Progress)}
    server = psutil.Process(session.connected().connection.driver_connection.info.backend_pid)  # type: ignore[union-attr]
    before = sum(server.cpu_times()[:2])
    for records in _polls(stage, clock, list(partitions.values()), prepared.records, settings.batch.rows_max):
        count += len(records)
        _apply(session, clock, tables, progress, records)
    server_s = sum(server.cpu_times()[:2]) - before
    session.close()
    for spent in (clock.wall, clock.cpu):
        spent["rows and plan"] -= spent["envelopes"]  # which it has read again
    return clock, count, server_s


def _polls(
    stage: Stage, clock: _Clock, partitions: list[Partition], wanted: int, rows_max: int
) -> Iterator[list[Record]]:
    """All records of these partitions, as many at a time as a batch holds."""
    client = Consumer(
        {
            "bootstrap.servers": stage.servers.kafka.bootstrap,
            "group.id": "profile",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,
        }
    )
    client.assign([TopicPartition(*partition, 0) for partition in partitions])
    read = 0
    while read < wanted:
        found: list[Message] = []
        with clock.stage("consume"):
            while len(found) < min(rows_max, wanted - read):
                found += client.consume(min(_CHUNK, rows_max - len(found)), 1.0)
        read += len(found)
        with clock.stage("records"):
            records = [to_record(Partition(m.topic() or "", m.partition() or 0), m, True) for m in found]  # noqa: FBT003
        yield records
    client.close()


def _apply(
    session: Replica, clock: _Clock, tables: Tables, progress: dict[Partition, Progress], records: list[Record]
) -> None:
    with clock.stage("envelopes"):
        parts, _ = bulk.parted(records, (), ())
        for mine in parts.values():
            envelope.decode_all(mine)
    with clock.stage("rows and plan"):
        found, _ = bulk.read(parts, progress, tables)
    with clock.stage("text of COPY"):
        for rows in (rows for plan in found.plans for rows in plan.upserts):
            rows.copy_text  # noqa: B018 - made once
    if not found.records:  # the last ones, which are too few
        return
    claims = {partition: Claim(_TOPIC_ID, progress[partition]) for partition in found.to}
    with clock.stage("apply"):
        session.apply(Batch(claims, found.to, found.plans))
    progress |= found.to


if __name__ == "__main__":
    typer.run(profile)
