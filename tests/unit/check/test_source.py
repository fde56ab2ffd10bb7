"""What is said of the source's server, slot and publication, also where no test can plant it on a shared server."""

from __future__ import annotations

import pytest

from deltasync.check.source import Facts, Publication, judge
from deltasync.finding import Gravity
from deltasync.source.observe import View
from deltasync.source.position import SlotState
from deltasync.source.preflight import Server
from deltasync.source.statements import VERSION, Installed, Pipeline
from deltasync.table import TableId

PIPELINE = Pipeline("shop", "shop", "shop", ("shop",), ())
SERVER = Server(18, "logical", True, 1, 1, ("shop",), (), False, ())  # noqa: FBT003
SLOT = SlotState(1, 1, 0, "reserved", active=True, invalidation_reason=None)
FACTS = Facts(
    server=SERVER,
    installed=Installed(version=VERSION, role=True, publication=True, published=("canary", "schema_log", "signal")),
    view=View(0, True, SLOT, ()),  # noqa: FBT003
    standby=False,
    wal_keep_mb=4096,
    slot_timeout=0,
    plugin="pgoutput",
    database_of_slot=True,
    publication=Publication(whole=True, via_root=True, tables=(), partial=(), twice=()),
    announced=(),
    triggers=2,
)


def _slot(status: str, *, active: bool = True, why: str | None = None) -> View:
    return FACTS.view._replace(slot=SlotState(1, 1, 0, status, active=active, invalidation_reason=why))


def test_a_source_as_it_should_be_has_no_finding() -> None:
    assert list(judge(FACTS, PIPELINE)) == []


@pytest.mark.parametrize(
    ("facts", "gravity", "says", "do"),
    [
        (FACTS._replace(server=SERVER._replace(wal_level="replica")), "refused", "wal_level", "ALTER SYSTEM"),
        (FACTS._replace(standby=True), "refused", "standby", "DSN"),
        (FACTS._replace(wal_keep_mb=-1), "note", "max_slot_wal_keep_size", "SET max_slot_wal_keep_size"),
        (FACTS._replace(slot_timeout=60), "warning", "idle_replication_slot_timeout", "timeout = 0;"),
        (FACTS._replace(installed=Installed(), publication=None), "note", "not set up", "source setup"),
        (FACTS._replace(installed=FACTS.installed._replace(published=())), "warning", "signal", "source setup"),
        (FACTS._replace(publication=None), "refused", "publication shop is missing", "source setup"),
        (FACTS._replace(view=_slot("lost")), "refused", "invalidated", "Start anew"),
        (FACTS._replace(view=_slot("reserved", why="idle_timeout")), "refused", "idle_timeout", "Start anew"),
        (FACTS._replace(view=_slot("unreserved")), "warning", "about to be", "ALTER SYSTEM"),
        (FACTS._replace(view=_slot("reserved", active=False)), "warning", "Nobody reads", "connectors status"),
        (FACTS._replace(view=FACTS.view._replace(slot=None)), "note", "no slot", "connectors apply"),
        (FACTS._replace(plugin="test_decoding"), "refused", "not one of pgoutput", "pg_drop_replication_slot"),
        (
            FACTS._replace(view=FACTS.view._replace(holes=((TableId("shop", "a"), "42501"),))),
            "warning",
            "hole at shop.a",
            "source setup",
        ),
    ],
)
def test_each_fault_is_named_with_its_remedy(facts: Facts, gravity: str, says: str, do: str) -> None:
    (finding,) = judge(facts, PIPELINE)

    assert finding.gravity is Gravity(gravity)
    assert says in finding.what
    assert do in finding.remedy


@pytest.mark.parametrize(
    ("facts", "says", "do"),
    [
        (FACTS, "No standby keeps a copy of the slot shop", "ALTER_REPLICATION_SLOT shop (FAILOVER true)"),
        (FACTS._replace(copied=True), "synchronized_standby_slots names no", "SET synchronized_standby_slots"),
    ],
)
def test_a_slot_that_is_to_outlive_its_server(facts: Facts, says: str, do: str) -> None:
    """Where `failover` is set, what is missing for that is told."""
    (finding,) = judge(facts, PIPELINE._replace(failover=True))

    assert finding.gravity is Gravity.WARNING
    assert says in finding.what
    assert do in finding.remedy
    well = facts._replace(copied=True, awaited="standby_a")
    assert list(judge(well, PIPELINE._replace(failover=True))) == list(judge(facts, PIPELINE)) == []
