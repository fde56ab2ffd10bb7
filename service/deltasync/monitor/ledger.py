"""The ledger as an operator sees and moves it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple

from deltasync.change import Log, Partition
from deltasync.errors import RefusedError
from deltasync.kafka.admin import Admin
from deltasync.progress import Claim, Progress
from deltasync.replica import by_hand, identity, ledger
from deltasync.replica.engine import open_replica
from deltasync.settings import Settings


class Moved(NamedTuple):
    """A partition that was moved: from where (None: the ledger did not know it) to where."""

    topic: str
    partition: int
    old_next_offset: int | None
    next_offset: int


def show(settings: Settings) -> dict[Partition, Claim]:
    """How far each partition of the pipeline has been applied. Raises UnreachableError."""
    settings.need("replica.dsn")
    with closing(open_replica(settings, name="ledger")) as replica, replica.begin():
        return ledger.read(replica, settings.pipeline)


def move(settings: Settings, partition: Partition, next_offset: int, reason: str) -> Moved:
    """Make `next_offset` what is read next of a partition, and forget its watermark.

    The topic may be named without the pipeline's prefix. A running worker hears of it within seconds; no
    need to stop it, since a batch that it is applying is fenced. Raises RefusedError without a reason, for a
    partition that Kafka does not hold, for an offset outside its log, and for one that is not ahead where transactions
    are applied whole; UnreachableError.
    """
    settings.need("replica.dsn", "kafka.bootstrap")
    logs = Admin(settings).logs()
    partition = _known(partition, logs, settings.topic_prefix)
    log = logs[partition]
    if not log.start_offset <= next_offset <= log.end_offset:
        raise RefusedError(
            f"{partition} holds the offsets {log.start_offset} to {log.end_offset}, not {next_offset}.",
            remedy="Choose the offset that is to be read next from these.",
        )
    to = Claim(log.topic_id, Progress(next_offset))
    with closing(open_replica(settings, name="ledger")) as replica, replica.begin():
        if settings.consistency == "transaction":
            _refuse_again(ledger.read(replica, settings.pipeline).get(partition), to)
        before = by_hand.place(replica, settings.pipeline, partition, to, reason)
    return Moved(*partition, before, next_offset)


def accept_source(settings: Settings, reason: str) -> identity.Unaccepted:
    """Go on with the source as it is (see `identity.accept`). A running worker hears of it within seconds."""
    settings.need("replica.dsn")
    with closing(open_replica(settings, name="ledger")) as replica, replica.begin():
        return identity.accept(replica, settings.pipeline, reason)


def _refuse_again(now: Claim | None, to: Claim) -> None:
    """A watermark that is forgotten would have transactions applied twice, or in part."""
    if now is not None and now.topic_id == to.topic_id and to.progress.next_offset <= now.progress.next_offset:
        raise RefusedError(
            f'With consistency = "transaction" nothing is applied again: {now.progress.next_offset} is read next.',
            remedy="Start deltasync run again to try again where it has stopped.",
        )


def _known(partition: Partition, logs: Mapping[Partition, Log], prefix: str) -> Partition:
    for named in (partition, partition._replace(topic=f"{prefix}.{partition.topic}")):
        if named in logs:
            return named
    raise RefusedError(
        f"Kafka holds no partition {partition} of this pipeline.",
        remedy="`deltasync lag --json` lists those there are.",
    )
