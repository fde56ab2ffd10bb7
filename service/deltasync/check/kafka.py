"""The topics of the captured tables. Pure: `kafka.admin` asks the broker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from deltasync.change import Partition, TopicSettings
from deltasync.debezium.schema_log import CONTROL_TABLES
from deltasync.finding import Area, Finding, Gravity
from deltasync.monitor.lag import topics
from deltasync.table import TableId


def judge_settings(topics: Mapping[str, TopicSettings], record_bytes_max: int | None) -> Iterator[Finding]:
    """Topics whose older records Kafka throws away, and those that take smaller records than the connector sends.

    `record_bytes_max` is the largest one that it sends, where that is known.
    """
    for topic, found in sorted(topics.items()):
        if record_bytes_max is not None and found.record_bytes_max < record_bytes_max:
            yield Finding(
                Gravity.REFUSED,
                Area.KAFKA,
                f"The topic {topic} takes records of {found.record_bytes_max} bytes, the connector sends up to "
                f"{record_bytes_max}.",
                "A record that the broker refuses does not keep those behind it from being sent. These hide it when it "
                "comes again: its change is lost.",
                f"kafka-configs.sh --bootstrap-server … --alter --topic {topic} --add-config "
                f"max.message.bytes={record_bytes_max}",
            )
        if not found.compacted:
            continue
        yield Finding(
            Gravity.REFUSED,
            Area.KAFKA,
            f"The topic {topic} is compacted.",
            "Changes that Kafka throws away are lost to whoever reads late, and nothing tells: records of transactions "
            "leave holes in a log, too.",
            f"kafka-configs.sh --bootstrap-server … --alter --topic {topic} --add-config cleanup.policy=delete; "
            "then `deltasync compare`, and `deltasync resync` where a table differs.",
        )


def judge(
    partitions: Iterable[Partition],
    tables: Iterable[TableId],
    prefix: str,
    keyless: Collection[TableId] = (),
    ends: str | None = None,
) -> Iterator[Finding]:
    """Topics with more than one partition: of these a TRUNCATE has no order against the rows, and control needs one.

    So do the tables without a primary key (`keyless`): their rows have no order across partitions at all. `ends` is
    the topic of the ends of transactions where these are applied whole.
    """
    known = topics({*tables, *CONTROL_TABLES}, prefix)
    counts = Counter(partition.topic for partition in partitions)
    if ends is not None and counts[ends] > 1:
        yield Finding(
            Gravity.REFUSED,
            Area.KAFKA,
            f"The topic {ends} has {counts[ends]} partitions.",
            'Transactions have no order then: `deltasync run` does not start with consistency = "transaction".',
            "Begin a pipeline of another name, and let `deltasync connectors apply` make its topics.",
        )
    for topic, count in sorted(counts.items()):
        if count == 1 or topic not in known:
            continue
        table = known[topic]
        remedy = f"Leave it, and never TRUNCATE {table}; or make the topic anew with one partition while nothing runs."
        if table in CONTROL_TABLES:
            yield Finding(
                Gravity.REFUSED,
                Area.KAFKA,
                f"The control topic {topic} has {count} partitions.",
                "What it tells has no order then.",
                "Stop connector and workers, delete the topic, and start the connector: it makes one partition.",
                table,
            )
        elif table in keyless:
            yield Finding(
                Gravity.REFUSED,
                Area.KAFKA,
                f"The topic {topic} of a table without a primary key has {count} partitions.",
                "Debezium spreads its records by a key that is not the table's: its partitions stop.",
                f"ALTER TABLE {table.sql} ADD PRIMARY KEY (…); or leave the table out, or make the topic with one "
                "partition and read the table again.",
                table,
            )
        else:
            yield Finding(
                Gravity.NOTE,
                Area.KAFKA,
                f"The topic {topic} has {count} partitions.",
                "A TRUNCATE has no order against the rows in the other partitions, and stops its own; so does every "
                "record of a table whose equal keys may be written in several ways (numeric, dates, timestamps). "
                "Where a connector without the raw-text jar is restarted between the two records of a key change, "
                "nothing tells that the row is lost.",
                remedy,
                table,
            )
