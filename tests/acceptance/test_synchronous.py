"""A source whose commits wait for a standby: they are in its log, and streamed, before anybody sees them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from tests.acceptance.standby import standby_missing
from tests.flow import Flow, until

FIRST = """
    CREATE TABLE shop.late (n int NOT NULL, id int NOT NULL, code int NOT NULL, big text, PRIMARY KEY (id, n));
    CREATE UNIQUE INDEX a_code ON shop.late (code);
    ALTER TABLE shop.late ALTER big SET STORAGE EXTERNAL;
    INSERT INTO shop.late SELECT n, 1, n * 10, repeat('b', 9000) FROM generate_series(1, 40) n;
    SELECT pg_logical_emit_message(true, 'somebody', 'counts for nothing');
    UPDATE shop.late SET id = 2 WHERE n < 10;
    UPDATE shop.late SET code = -code WHERE n BETWEEN 5 AND 15;
    DELETE FROM shop.late WHERE n BETWEEN 12 AND 20;
    INSERT INTO shop.late SELECT n, 1, n * 10 FROM generate_series(12, 14) n;
"""


@contextmanager
def _commits_wait(flow: Flow, threads: ThreadPoolExecutor) -> Iterator[None]:
    """Those of connections that ask for it: one of them does, until the end."""
    flow.source.execute("SET synchronous_commit = local")
    dsn = f"{flow.source.info.dsn} password={flow.source.info.password}"
    with standby_missing(flow):
        until(lambda: _is_kept(flow.source, threads.submit(_commit, dsn)), "commits wait")
        yield


def _commit(dsn: str) -> None:
    with psycopg.connect(dsn) as probe:
        probe.execute("SET synchronous_commit = on")
        probe.execute("SELECT pg_logical_emit_message(true, 'probe', '')")


def _is_kept(source: psycopg.Connection[tuple[object, ...]], committed: Future[None]) -> bool:
    """True once a commit waits; false where it has not had to."""
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    until(lambda: committed.done() or source.execute(waiting).fetchone() is not None, "it waits, or need not")
    return not committed.done()


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_debezium_does_not_see_the_key_of_a_new_table(flow: Flow, consistency: str) -> None:
    """Its first records have none, or another index'; the rows end equal all the same."""
    flow.env["DELTASYNC_CONSISTENCY"] = consistency
    flow.settings = flow.settings.model_copy(update={"consistency": consistency})
    # Before there is a connector: its heartbeats would wait, and it with them.
    flow.source.execute(f"ALTER DATABASE {flow.source.info.dbname} SET synchronous_commit = local")
    flow.set_up("CREATE SCHEMA shop; CREATE TABLE shop.item (id int PRIMARY KEY)")
    flow.start_settled()
    flow.source.execute("INSERT INTO shop.item VALUES (1)")
    flow.wait_equal("shop.item")

    with psycopg.connect(flow.pipeline.source_admin) as other, ThreadPoolExecutor(2) as threads:
        other.execute("SET synchronous_commit = on")
        other.commit()
        other.execute(FIRST)
        with _commits_wait(flow, threads):
            committed = threads.submit(other.commit)
            until(lambda: flow.count("shop.late") == 34, "rows that nobody sees on the source yet")
            assert not committed.done()
        committed.result(30)

    flow.source.execute("UPDATE shop.late SET n = n + 100 WHERE n = 12; UPDATE shop.late SET code = 5 WHERE n = 13")
    flow.source.execute("DELETE FROM shop.late WHERE n = 14; INSERT INTO shop.late VALUES (14, 1, 6, 'again')")
    flow.wait_equal("shop.late")
