"""The judge of readiness: each reason by itself, and none where all is well."""

from __future__ import annotations

import pytest

from deltasync.canary import refusal
from deltasync.change import Partition
from deltasync.connect.status import State as Task
from deltasync.connect.status import Status, Unit
from deltasync.errors import RecordError, UnreachableError
from deltasync.lifecycle import State
from deltasync.monitor.health import Facts, Reading, Trouble, judge
from deltasync.ownership import PartitionState
from deltasync.replica.observe import Canary, Known
from deltasync.replica.observe import View as ReplicaView
from deltasync.source.observe import View as SourceView
from deltasync.source.position import SlotState
from deltasync.table import TableId

NOW = 1000.0
ORDERS = TableId("shop", "orders")
SLOT = SlotState(1, 1, 0, "reserved", active=True, invalidation_reason=None)
SOURCE = SourceView(0, publication=True, slot=SLOT, holes=())
KNOWN = Known(ORDERS, captured=True, complete=True, held=None)
REPLICA = ReplicaView(Canary(1, 0, "same", 3, "reserved"), (KNOWN,), "same")
WELL = Facts(
    state=State.RUNNING,
    failing=None,
    troubles=(),
    age_s=0.5,
    proven=True,
    differs_s=0.0,
    replica=Reading(REPLICA, NOW),
    kafka=Reading(None, NOW),
    source=Reading(SOURCE, NOW),
    connector=Reading(Status("c", Unit(Task.RUNNING), (Unit(Task.RUNNING, id=0),)), NOW),
)
AWAY = UnreachableError("It does not answer.", remedy="Start it.")


def told(facts: Facts) -> str:
    return "\n".join(f"{one.what} {one.why} {one.remedy}" for one in judge(facts, age_s_max=10.0, now=NOW))


def with_source(**changes: object) -> Facts:
    return WELL._replace(source=Reading(SOURCE._replace(**changes), NOW))  # type: ignore[arg-type]


def with_slot(wal_status: str, reason: str | None = None) -> Facts:
    return with_source(slot=SlotState(1, 1, 0, wal_status, active=False, invalidation_reason=reason))


def with_canary(wal_status: str) -> Facts:
    """The source itself cannot be asked."""
    canary = Canary(1, 0, "same", 3, wal_status)
    return WELL._replace(source=None, replica=Reading(REPLICA._replace(canary=canary), NOW))


def with_doubt(**what: str) -> Facts:
    canary = Canary(1, 0, "same", 3, "reserved", **what)
    stopped = Trouble(Partition("p.shop.orders", 0), PartitionState.STOPPED, refusal("It is another one."))
    return WELL._replace(replica=Reading(REPLICA._replace(canary=canary), NOW), troubles=[stopped])


def with_table(known: Known) -> Facts:
    return WELL._replace(replica=Reading(REPLICA._replace(tables=(known,)), NOW))


def with_connector(state: Task, trace: str = "") -> Facts:
    return WELL._replace(connector=Reading(Status("c", Unit(state), (Unit(Task.FAILED, trace=trace, id=0),)), NOW))


STOPPED = Trouble(Partition("p.shop.orders", 0), PartitionState.STOPPED, RecordError("It is no JSON.", remedy="Look."))


def test_all_is_well() -> None:
    assert judge(WELL, age_s_max=10.0, now=NOW) == []
    assert judge(WELL._replace(source=None, connector=None), age_s_max=10.0, now=NOW) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (WELL._replace(state=State.STARTING), "is starting"),
        (WELL._replace(failing="OperationalError (08006)"), "replica cannot be used. OperationalError"),
        (WELL._replace(troubles=[STOPPED]), "p.shop.orders[0] is stopped. It is no JSON. Look."),
        (WELL._replace(troubles=[STOPPED._replace(state=PartitionState.WAITING)]), "p.shop.orders[0] waits."),
        (WELL._replace(troubles=[STOPPED] * 25), "5 more partitions"),
        (WELL._replace(proven=False, age_s=None), "Unproven"),
        (WELL._replace(age_s=11.0), "canary on the replica is 11 s old"),
        (WELL._replace(differs_s=11.0), "not hold the tables that were announced"),
        (WELL._replace(replica=Reading(REPLICA, NOW, AWAY)), "replica cannot be used. It does not answer. Start it."),
        (WELL._replace(replica=Reading(REPLICA, NOW - 20)), "not answered for 20 s"),
        (WELL._replace(kafka=Reading(None, NOW, AWAY)), "Kafka cannot be used. It does not answer."),
        (with_source(publication=False), "publication is missing"),
        (with_source(slot=None), "slot is missing"),
        (with_slot("lost", "wal_removed"), "slot is invalidated. The source removed what"),
        (with_slot("lost", "wal_removed"), "(wal_removed)"),
        (with_slot("unreserved"), "about to be invalidated"),
        (with_source(holes=((ORDERS, "55P03"),)), "hole at shop.orders. Its event trigger failed (SQLSTATE 55P03)"),
        (WELL._replace(lacks_commits=True), "log ends before what was applied. It failed over"),
        (with_canary("unreserved"), "about to be invalidated"),
        (with_canary("lost"), "slot is invalidated"),
        (with_table(Known(ORDERS, True, False, None)), "shop.orders is incomplete"),  # noqa: FBT003
        (with_table(Known(ORDERS, True, True, "its key differs")), "shop.orders is held. its key differs."),  # noqa: FBT003
        (with_table(KNOWN._replace(complete=False, missing="Beat 5 never came.")), "missing from shop.orders. Beat 5"),
        (with_doubt(refused="It is another one."), "Nothing of the pipeline is applied. It is another one. Read the"),
        (with_doubt(doubt="It failed over to 2."), "The source failed over. It failed over to 2."),
        (
            with_connector(Task.RUNNING, "org.x.SomeException: odd"),
            "connector's task 0 has failed. org.x.SomeException",
        ),
    ],
)
def test_each_reason_alone(facts: Facts, expected: str) -> None:
    assert expected in told(facts)
    assert len(judge(facts, age_s_max=10.0, now=NOW)) in {1, 21}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (WELL._replace(kafka=Reading(None, NOW, AWAY)), "Kafka cannot be used"),
        (WELL._replace(source=Reading(SOURCE, NOW, AWAY)), "The source cannot be asked: It does not answer."),
        (WELL._replace(connector=Reading(None, NOW, AWAY)), "Connect cannot be asked: It does not answer."),
        (WELL._replace(connector=Reading(None, NOW)), "knows no such connector"),
        (WELL._replace(connector=Reading(Status("c", Unit(Task.PAUSED)), NOW)), "connector is paused"),
        (WELL._replace(connector=Reading(Status("c", Unit(Task.RUNNING)), NOW)), "running without a task"),
        (WELL, "does not pass changes on"),
        (with_slot("reserved"), "nobody reads its slot"),
        (with_slot("lost"), "does not pass changes on"),
        (with_slot("reserved")._replace(proven=False), "The initial snapshot is running"),
    ],
)
def test_why_the_canary_stands_still(facts: Facts, expected: str) -> None:
    assert expected in told(facts._replace(age_s=30.0))


def test_a_source_or_connect_that_cannot_be_asked_is_no_reason_while_the_canary_comes() -> None:
    assert told(WELL._replace(source=Reading(SOURCE, NOW, AWAY), connector=Reading(None, NOW, AWAY))) == ""


def test_tables_that_are_not_captured_do_not_count() -> None:
    assert told(with_table(Known(ORDERS, False, False, "held"))) == ""  # noqa: FBT003


def test_a_change_under_way_is_no_reason() -> None:
    assert told(WELL._replace(differs_s=9.0)) == ""
