"""What every replica promises of large batches: rows that should be new, and what is applied in the background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.conformance.bench import P0, Bench, plan_of, row_of, rows_of

from deltasync.errors import FencedError
from deltasync.ports import Batch, Replica
from deltasync.progress import Claim, Progress
from deltasync.replica.session import Replica as PostgresReplica


def test_rows_that_should_be_new(bench: Bench) -> None:
    """Where one is there all the same it is made equal, as if nobody had thought so, and the others come, too."""
    many = rows_of(*(row_of(str(n)) for n in range(600)))
    assert bench.do(plan_of(upserts=(replace(many, fresh=True),))) == 600
    more = rows_of(*(row_of(str(n), "x" if n == 599 else "a") for n in range(500, 1200)))
    assert bench.do(plan_of(upserts=(replace(more, fresh=True),))) == 601
    bench.do(plan_of(deletes=rows_of({"id": "7"}), upserts=(rows_of(row_of("8", "y")), replace(many, fresh=True))))

    found = {int(id_ or 0): a for id_, a, _ in bench.rows()}
    assert (len(found), found[7], found[8], found[599], found[600]) == (1200, "a", "a", "a", "a")


def test_a_batch_in_the_background(bench: Bench) -> None:
    """Its outcome is told when it is asked for; what else is asked of the session meanwhile waits for it."""
    many = rows_of(*(row_of(str(n)) for n in range(3000)))
    claims = {P0: Claim("id", bench.store.ledger()[P0])}
    outcome = _start(bench.session, Batch(claims, {P0: Progress(9)}, [plan_of(upserts=(many,))]))
    assert bench.session.open({P0: "id"}) == {P0: Progress(9)}
    assert outcome() == 3000
    outcome = _start(bench.session, Batch(claims, {P0: Progress(10)}))
    assert bench.session.open({P0: "id"}) == {P0: Progress(9)}
    with pytest.raises(FencedError):
        outcome()


def _start(session: Replica, batch: Batch) -> Callable[[], int]:
    """As the service does; the store's own sessions apply at once."""
    return PostgresReplica.start(session, batch) if isinstance(session, PostgresReplica) else session.start(batch)
