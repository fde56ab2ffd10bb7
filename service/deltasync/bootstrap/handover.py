"""From the load to the stream: the connector begins at the slot, and each topic behind what the rows hold already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing

import sqlalchemy as sa

from deltasync.bootstrap.target import REASON, State
from deltasync.change import Log, Partition
from deltasync.connect import apply
from deltasync.connect.apply import Patience
from deltasync.connect.client import ConnectClient
from deltasync.connect.status import Condition
from deltasync.connect.template import Connector
from deltasync.debezium.envelope import decode_origin
from deltasync.errors import DeltasyncError, UnreachableError
from deltasync.kafka.admin import Admin
from deltasync.kafka.reader import Reader
from deltasync.monitor.wait import Clock, wait_for_slot
from deltasync.progress import Claim, Progress
from deltasync.replica import by_hand, ledger
from deltasync.replica.engine import open_replica
from deltasync.resync.snapshot import Snapshot
from deltasync.resync.stream import begin, ends
from deltasync.settings import Settings
from deltasync.table import TableId

_POLL_S = 0.2
_AGAIN = "Then run deltasync bootstrap again: it goes on here."


def start(settings: Settings, client: ConnectClient, connector: Connector, timeout_s: float) -> None:
    """Have the connector run, and Kafka hold all that is committed now. Idempotent.

    Raises DeltasyncError where it does not run, UnreachableError where it does not come that far in time.
    """
    if apply.find_status(client, connector.name) is None:
        apply.create_anew(client, connector)
    before = apply.find_status(client, connector.name)
    client.resume(connector.name)
    status = apply.wait_running(client, connector.name, Patience(timeout_s), before=before)
    if status.condition is not Condition.RUNNING:
        raise DeltasyncError(
            f"The connector {connector.name} is {status.condition.value}.",
            remedy=f"deltasync connectors status says why. {_AGAIN}",
        )
    why = wait_for_slot(settings, Clock.running(timeout_s))
    if why:
        raise UnreachableError(
            f"What was committed on the source does not reach Kafka: {why}.",
            remedy=f"See deltasync connectors status. {_AGAIN}",
        )


def step_over(settings: Settings, late: Mapping[TableId, State], tell: Callable[[str], None]) -> list[TableId]:
    """Have the ledger begin behind what tables hold that were read in a later snapshot than the slot's.

    That snapshot is another slot's: it shows the transactions before a place in the source's log and none behind it.
    The stream has them in the order of that log, so that what a table holds is the beginning of its topic. Returns the
    tables of which a worker has applied records: those may be wrong now.
    """
    logs = Admin(settings).logs()
    touched = []
    for id_, state in late.items():
        tell(f"{id_}: looking for the first change that it does not hold")
        topic = id_.topic(settings.topic_prefix)
        of_table = {partition: log for partition, log in logs.items() if partition.topic == topic}
        if of_table and not _advance(settings, topic, of_table, Snapshot.parse(state.snapshot)):
            touched.append(id_)
    return touched


def _advance(settings: Settings, topic: str, logs: Mapping[Partition, Log], snapshot: Snapshot) -> bool:
    """Move the ledger of one topic; False where a worker has applied something of it."""
    with closing(open_replica(settings, name="bootstrap")) as replica:
        with replica.begin():
            claims = ledger.read(replica, settings.pipeline)
        first = {partition: begin(claims.get(partition), log).next_offset for partition, log in logs.items()}
        found = first_unseen(settings, logs, first, snapshot)
        with replica.begin():
            if _is_touched(replica, settings, topic, first):
                return False
            for partition, offset in found.items():
                to = Claim(logs[partition].topic_id, Progress(offset))
                by_hand.advance(replica, settings.pipeline, partition, to, REASON)
    return True


def _is_touched(replica: sa.Connection, settings: Settings, topic: str, first: Mapping[Partition, int]) -> bool:
    found = ledger.lock(replica, settings.pipeline, topic)
    return any(
        claim.progress.watermark is not None or claim.progress.next_offset != first.get(partition, 0)
        for partition, claims in found.items()
        for claim in claims
    )


def first_unseen(
    settings: Settings, logs: Mapping[Partition, Log], first: Mapping[Partition, int], snapshot: Snapshot
) -> dict[Partition, int]:
    """The first record of each partition, from an offset on, that a snapshot does not hold, or its end."""
    to, found = ends(logs), dict[Partition, int]()
    with closing(Reader(settings)) as reader:
        reader.add(first)
        while not reader.has_reached({partition: end for partition, end in to.items() if partition not in found}):
            for record in reader.read(settings.batch.rows_max, _POLL_S):
                origin = decode_origin(record)
                seen = origin is None or origin.transaction is None or snapshot.shows(origin.transaction)
                if not seen:
                    found.setdefault(record.partition, record.offset)
    return {**to, **found}
