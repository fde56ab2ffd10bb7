"""What `deltasync check` finds at a broker."""

from __future__ import annotations

from tests.acceptance.topics import Topics
from tests.flow import Flow, until

from deltasync.check.examine import examine
from deltasync.settings import Settings


def test_a_topic_that_is_compacted_is_refused(flow: Flow) -> None:
    topics = Topics(flow)
    kafka_alone = Settings(pipeline=flow.settings.pipeline, kafka=flow.settings.kafka)
    for table, policy in (("shop.kept", "delete"), ("shop.thinned", "compact"), ("shop.both", "compact,delete")):
        topics.make(table)
        topics.configure(table, {"cleanup.policy": policy})

    until(lambda: len(examine(kafka_alone).findings) > 1, "the topics are known")
    findings = examine(kafka_alone).findings
    assert [(one.gravity, one.what) for one in findings] == [
        ("refused", f"The topic {topics.name('shop.both')} is compacted."),
        ("refused", f"The topic {topics.name('shop.thinned')} is compacted."),
    ]
    assert f"--topic {topics.name('shop.both')} --add-config cleanup.policy=delete" in findings[0].remedy
