"""`deltasync bootstrap` beside writers that never stop: no row is missing, none is doubled, also behind a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.acceptance.load import SCHEMA, TABLES, Load
from tests.acceptance.test_transactions import SCHEMA as MONEY
from tests.acceptance.test_transactions import SUM, Trade
from tests.acceptance.test_transactions import TABLES as GOODS
from tests.flow import Flow, until

from deltasync.bootstrap import handover, parts
from deltasync.bootstrap.run import Job, bootstrap
from deltasync.change import Partition
from deltasync.errors import RefusedError
from deltasync.replica.setup import setup as replica_setup
from deltasync.source.setup import setup as source_setup
from deltasync.table import TableId

# What a later snapshot holds and the stream brings again is not harmless here: values that do not travel, unique ones
# that move, rows that nothing tells from each other.
MORE = """
    CREATE TYPE shop.colour AS ENUM ('red', 'green');
    CREATE TABLE shop.part (id int PRIMARY KEY, code text CONSTRAINT code_once UNIQUE, n int, big text,
                            colour shop.colour, twice int GENERATED ALWAYS AS (n * 2) STORED,
                            CONSTRAINT n_small CHECK (n < 1000000));
    ALTER TABLE shop.part ALTER big SET STORAGE EXTERNAL;
    CREATE INDEX part_by_n ON shop.part (n) WHERE n > 0;
    CREATE TABLE shop.of_part (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                               part int CONSTRAINT of_part REFERENCES shop.part);
    CREATE TABLE shop.pile (a int, j json);
    ALTER TABLE shop.pile REPLICA IDENTITY FULL;
    CREATE TABLE shop.split (id int, day int, note text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
    CREATE TABLE shop.split_low PARTITION OF shop.split FOR VALUES FROM (0) TO (10);
    CREATE TABLE shop.split_high PARTITION OF shop.split FOR VALUES FROM (10) TO (20);
    CREATE TABLE shop.empty (id int PRIMARY KEY);
    CREATE TYPE shop.two AS (one int, other text);
    CREATE TABLE shop.named (id int PRIMARY KEY, name regclass, two shop.two, all_of shop.colour[]);
    INSERT INTO shop.named VALUES (1, 'shop.part', (1, E'a\tb'), '{red,green}'), (2, NULL, NULL, NULL);
    INSERT INTO shop.part SELECT n, n, n, repeat('b', 5000), 'red' FROM generate_series(1, 2000) n;
    INSERT INTO shop.of_part (part) SELECT n FROM generate_series(1, 500) n;
    INSERT INTO shop.pile SELECT n % 3, '{"a":  1}' FROM generate_series(1, 3000) n;
    INSERT INTO shop.split SELECT n, n % 20, 'split ' || n FROM generate_series(1, 5000) n;
"""
ALL = (*TABLES, "shop.part", "shop.of_part", "shop.pile", "shop.split", "shop.empty", "shop.named")
CHANGES = """
    UPDATE shop.part SET n = n + 1, colour = 'green' WHERE id BETWEEN {0} AND {0} + 20;
    DELETE FROM shop.part WHERE id BETWEEN {0} + 600 AND {0} + 610;
    UPDATE shop.part SET n = n + 1 WHERE id BETWEEN {0} + 1200 AND {0} + 1220;
    DELETE FROM shop.part WHERE id BETWEEN {0} + 1200 AND {0} + 1210;
    INSERT INTO shop.part SELECT id + 100000, code || 'x', n, big FROM shop.part WHERE id = {0} + 1500;
    UPDATE shop.part SET code = code || 'y' WHERE id = {0} + 1501;
    INSERT INTO shop.part SELECT id + 100000, ({0} + 1501)::text, n, big FROM shop.part WHERE id = {0} + 1501;
    UPDATE shop.part SET id = id + 200000 WHERE id = {0} + 1502;
    INSERT INTO shop.pile VALUES (7, '{{}}'), (1, '{{"a":  1}}');
    DELETE FROM shop.pile WHERE ctid IN (SELECT ctid FROM shop.pile WHERE a = 2 LIMIT 3);
    UPDATE shop.split SET day = (day + 7) % 20 WHERE id BETWEEN {0} AND {0} + 9;
"""
# Some rows of these tables wait until the test lets them through.
GATE = """
    CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$;
    CREATE TRIGGER wait BEFORE INSERT ON shop.part FOR EACH ROW WHEN (NEW.id = 2000) EXECUTE FUNCTION public.wait();
    ALTER TABLE shop.part ENABLE ALWAYS TRIGGER wait;
    CREATE TRIGGER wait BEFORE INSERT ON shop.pile FOR EACH ROW EXECUTE FUNCTION public.wait();
    ALTER TABLE shop.pile ENABLE ALWAYS TRIGGER wait;
"""
GATED = {"shop.part", "shop.pile"}
SMALL_PARTS = "import deltasync.bootstrap.parts as p; p.PART_BYTES = 65536; from deltasync.cli.main import main; main()"
STATES = "SELECT schema_name || '.' || table_name, state FROM deltasync.bootstrap"


def set_up(flow: Flow) -> None:
    flow.use_keyless()
    flow.use_converter(on=True)
    flow.source.execute(SCHEMA)
    flow.source.execute(MORE)
    source_setup(flow.settings)
    replica_setup(flow.settings)


def done(flow: Flow) -> set[str]:
    return {name for name, state in flow.replica.execute(STATES) if state == "done"}


def names(connection: psycopg.Connection, query: str) -> set[str]:
    return {name for (name,) in connection.execute(query)}


@contextmanager
def started(flow: Flow) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process of its own, that copies small parts."""
    with Path(flow.folder / "said").open("wb") as said:
        command = subprocess.Popen(
            [sys.executable, "-c", SMALL_PARTS, "bootstrap", "--jobs", "8"],
            env={"PATH": os.environ["PATH"], **flow.env},
            stderr=said,
            stdout=said,
        )
        try:
            yield command
        finally:
            command.kill()
            command.wait(10)


def change(flow: Flow, number: int) -> None:
    for statement in CHANGES.format(number * 25 + 1).split(";\n"):
        flow.source.execute(statement)


def test_no_gap_and_nothing_twice(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica has the rows, their keys, indexes and constraints, and follows; it is ready by itself."""
    monkeypatch.setattr(parts, "PART_BYTES", 65536)
    set_up(flow)
    told: list[str] = []
    with Load(flow, 11) as load:
        change(flow, 0)
        report = bootstrap(flow.settings, Job(jobs=3, tell=told.append))
        change(flow, 1)
        worker = flow.start_worker()
        until(lambda: load.transactions > 100, "writers write")
    flow.wait_equal(*ALL)
    assert {one.table for one in report.tables} == set(ALL)
    assert (report.notes, report.resync, worker.blamed()) == ((), (), [])
    assert any(one.startswith(f"{len(ALL)} of {len(ALL)} tables") for one in told)
    indexes = "SELECT indexname FROM pg_indexes WHERE schemaname = 'shop' AND tablename NOT LIKE 'split%'"
    assert names(flow.source, indexes) - names(flow.replica, indexes) == set()
    constraints = "SELECT conname FROM pg_constraint WHERE conname IN ('code_once', 'n_small', 'of_part')"
    assert names(flow.replica, constraints) == {"code_once", "n_small", "of_part"}
    assert is_complete(flow)
    assert flow.replica.execute("SELECT count(*) FROM deltasync.bootstrap").fetchone() == (0,)
    url = worker.events("monitor answers")[-1]["url"]
    flow.env["DELTASYNC_MONITOR_URL"] = url
    until(lambda: flow.monitor("/readyz").status_code == 200, "ready")
    with pytest.raises(RefusedError, match="The connector"):
        bootstrap(flow.settings, Job())


def begun_whole(flow: Flow) -> bool:
    """Whether all tables could be read in one snapshot; where one could not, it is all begun anew."""
    anew = flow.replica.execute("SELECT FROM deltasync.bootstrap").rowcount > 0
    try:
        bootstrap(flow.settings, Job(jobs=2, anew=anew))
    except RefusedError as error:
        if "cannot be of the same moment" in error.what:
            return False
        raise
    return True


def test_whole_transactions(flow: Flow) -> None:
    """From the first commit of the applier on no money is missing, nor there twice."""
    flow.settings = flow.settings.model_copy(update={"consistency": "transaction"})
    flow.env["DELTASYNC_CONSISTENCY"] = "transaction"
    flow.source.execute(MONEY)
    source_setup(flow.settings)
    replica_setup(flow.settings)
    # Three of sixteen transactions empty a table: often enough to meet a load, and not each one.
    with Trade(flow, 3, pause_s=0.15) as trade:
        until(lambda: trade.transactions > 20, "money moves")
        until(lambda: begun_whole(flow), "no table was emptied before it was read")
        sums = names(flow.replica, SUM)
        flow.start_worker()
        seen = trade.transactions
        while trade.transactions < seen + 100:
            sums |= names(flow.replica, SUM)
    flow.wait_equal(*GOODS)
    assert sums == names(flow.source, SUM)


@contextmanager
def killed(flow: Flow) -> Iterator[None]:
    """The command was killed when two tables were not whole yet; others write to the source until the block ends."""
    set_up(flow)
    flow.replica.execute(GATE)
    with Load(flow, 12), psycopg.connect(flow.pipeline.replica_admin, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(42)")
        with started(flow) as command:
            until(lambda: set(ALL) - done(flow) <= GATED or command.poll() is not None, "other tables are loaded")
            assert command.poll() is None, (flow.folder / "said").read_text()
            change(flow, 0)
        assert set(ALL) - done(flow) == GATED
        change(flow, 1)
        gate.execute("SELECT pg_advisory_unlock(42)")
        yield


def counts(flow: Flow) -> list[tuple[int]]:
    return [row for id_ in TABLES for row in flow.replica.execute(f"SELECT count(*) FROM {id_}").fetchall()]


def is_complete(flow: Flow) -> bool:
    return flow.replica.execute("SELECT bool_and(complete) FROM deltasync.source_table").fetchone() == (True,)


def test_it_is_killed_in_the_middle(flow: Flow) -> None:
    """Tables that were whole stay, others begin again in a later snapshot, whose changes the stream brings, too."""
    with killed(flow):
        before = counts(flow)
        report = json.loads(flow.cli("bootstrap", "--json"))
        assert counts(flow) == before
        assert (report["notes"], report["resync"]) == ([], [])
        change(flow, 2)
        worker = flow.start_worker()
    flow.wait_equal(*ALL)
    assert worker.blamed() == []
    assert is_complete(flow)


def test_a_worker_is_too_early(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """It applied what tables held already that were read in a later snapshot: that is told, and they are read again."""
    looked = handover.first_unseen

    def late(*arguments: Any) -> dict[Partition, int]:  # noqa: ANN401 - handed on
        until(lambda: flow.ledger().get("shop.part", (0, 0))[0], "the worker has applied something")
        return looked(*arguments)

    with killed(flow):
        monkeypatch.setattr(handover, "first_unseen", late)
        flow.start_worker()
        report = bootstrap(flow.settings, Job())
        assert "shop.part" in report.resync
        assert not is_complete(flow)
        flow.cli("resync", *report.resync)
    flow.wait_equal(*ALL)
    assert is_complete(flow)


def test_it_is_killed_at_the_end(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connector streams already: what is left is done by another call."""

    def dies(*_arguments: object) -> list[TableId]:
        raise KeyboardInterrupt

    with killed(flow):
        monkeypatch.setattr(handover, "step_over", dies)
        with pytest.raises(KeyboardInterrupt):
            bootstrap(flow.settings, Job())
        monkeypatch.undo()
        assert not is_complete(flow)
        assert bootstrap(flow.settings, Job()).resync == ()
        worker = flow.start_worker()
    flow.wait_equal(*ALL)
    assert (worker.blamed(), is_complete(flow)) == ([], True)
