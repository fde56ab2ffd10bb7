"""What is said of Connect and of topics: findings from what they answer."""

from __future__ import annotations

import pytest

from deltasync.change import Partition
from deltasync.check import kafka
from deltasync.check.connector import Facts, judge, judge_file
from deltasync.connect.client import Plugin
from deltasync.connect.rules import Agreed
from deltasync.connect.status import State, Status, Unit
from deltasync.errors import RefusedError
from deltasync.finding import Gravity
from deltasync.table import TableId

PLUGIN = Plugin("io.debezium.connector.postgresql.PostgresConnector", "3.7.0.Final")
STATUS = Status("a", Unit(State.RUNNING), (Unit(State.RUNNING, id=0),))
OTHER = {"connector.class": "org.example.Other"}
FACTS = Facts("a", OTHER, STATUS, (PLUGIN,), None)


def _task(state: State, trace: str = "") -> Status:
    return Status("a", Unit(State.RUNNING), (Unit(state, trace=trace, id=0),))


@pytest.mark.parametrize(
    ("facts", "gravity", "says", "do"),
    [
        (FACTS._replace(plugins=()), "refused", "no plug-in", "plugin.path"),
        (FACTS._replace(plugins=(PLUGIN.__class__(PLUGIN.class_, "3.6.2.Final"),)), "refused", "3.6.2", "3.7.0"),
        (FACTS._replace(actual=None), "note", "no connector a yet", "connectors apply"),
        (FACTS._replace(refused=RefusedError("No.", remedy="Mend.")), "refused", "No.", "Mend."),
        (
            FACTS._replace(status=_task(State.FAILED, "x: no longer available on the server")),
            "refused",
            "task 0",
            "anew",
        ),
        (FACTS._replace(status=Status("a", Unit(State.RUNNING))), "refused", "without a task", "log"),
        (FACTS._replace(status=Status("a", Unit(State.PAUSED))), "warning", "paused", "resume"),
    ],
)
def test_each_fault_is_named_with_its_remedy(facts: Facts, gravity: str, says: str, do: str) -> None:
    (finding,) = judge(facts, Agreed(None))

    assert finding.gravity is Gravity(gravity)
    assert says in finding.what
    assert do in finding.remedy


def test_a_connector_that_runs_has_no_finding() -> None:
    assert list(judge(FACTS, Agreed(None))) == []


def test_files_without_the_connector_are_told() -> None:
    assert [f.gravity for f in judge_file(None, "a")] == [Gravity.WARNING]
    assert [f.gravity for f in judge_file(RefusedError("No.", remedy="Mend."), "a")] == [Gravity.REFUSED]


def test_topics_of_several_partitions_are_told() -> None:
    """Of a table it is a note, of a control table it is refused, of a stranger's it is none of ours."""
    topics = ["p.shop.a", "p.shop.b", "p.shop.b", "p.deltasync.canary", "p.deltasync.canary", "p.other", "p.other"]
    partitions = [Partition(topic, topics[:place].count(topic)) for place, topic in enumerate(topics)]
    found = {str(f.table): f.gravity for f in kafka.judge(partitions, [TableId("shop", n) for n in "ab"], "p")}

    assert found == {"shop.b": Gravity.NOTE, "deltasync.canary": Gravity.REFUSED}
