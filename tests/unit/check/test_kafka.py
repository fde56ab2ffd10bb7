"""What is said of topics with several partitions."""

from __future__ import annotations

from deltasync.change import Partition, TopicSettings
from deltasync.check.kafka import judge, judge_settings
from deltasync.table import TableId

T = TableId("shop", "t")


def test_several_partitions_are_refused_where_rows_have_no_order_across_them() -> None:
    two = [Partition("p.shop.t", 0), Partition("p.shop.t", 1)]

    assert list(judge(two[:1], [T], "p", [T])) == []
    assert [finding.gravity for finding in judge(two, [T], "p")] == ["note"]
    (finding,) = judge(two, [T], "p", [T])
    assert (finding.gravity, finding.what) == (
        "refused",
        "The topic p.shop.t of a table without a primary key has 2 partitions.",
    )
    assert 'ALTER TABLE "shop"."t" ADD PRIMARY KEY' in finding.remedy


def test_several_partitions_for_the_ends_of_transactions_are_refused_where_these_are_applied_whole() -> None:
    two = [Partition("p.transaction", 0), Partition("p.transaction", 1)]

    assert list(judge(two, [T], "p")) == []
    assert list(judge(two[:1], [T], "p", ends="p.transaction")) == []
    (finding,) = judge(two, [T], "p", ends="p.transaction")
    assert (finding.gravity, finding.what) == ("refused", "The topic p.transaction has 2 partitions.")
    assert "pipeline of another name" in finding.remedy


def test_topics_that_take_smaller_records_than_are_sent_are_refused() -> None:
    topics = {"p.shop.t": TopicSettings(1000, compacted=False), "p.shop.u": TopicSettings(2000, compacted=False)}

    assert list(judge_settings(topics, None)) == list(judge_settings(topics, 1000)) == []
    (finding,) = judge_settings(topics, 2000)
    assert (finding.gravity, finding.what) == (
        "refused",
        "The topic p.shop.t takes records of 1000 bytes, the connector sends up to 2000.",
    )
    assert "--topic p.shop.t --add-config max.message.bytes=2000" in finding.remedy
