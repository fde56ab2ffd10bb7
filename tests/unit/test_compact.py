"""The last state of each key."""

from __future__ import annotations

import pytest
from tests.unit.make import PLACEHOLDER, TABLE, change, column, decoder

from deltasync.change import Change
from deltasync.compact import compact
from deltasync.errors import RecordError
from deltasync.table import Table, TableId


def _folded(*changes: Change) -> tuple[bool, list[list[str]]]:
    found = compact(changes, {TABLE.id: decoder()})[TABLE.id]
    return found.truncated, [[one.op.value for one in chain] for chain in found.chains]


def test_last_state_per_key() -> None:
    """One survivor per key, whatever came before."""
    assert _folded(change("c"), change("u"), change("c", 2), change("u")) == (False, [["u"], ["c"]])


def test_insert_update_delete_leaves_the_delete() -> None:
    """The row may have been on the replica before, so the delete stays."""
    assert _folded(change("c"), change("u"), change("d")) == (False, [["d"]])


def test_delete_and_insert_again() -> None:
    """The new row is all that counts."""
    assert _folded(change("d"), change("c")) == (False, [["c"]])


def test_truncate_forgets_what_was_before() -> None:
    """And nothing of what comes behind it."""
    assert _folded(change("c"), change("d", 2), change("t"), change("c", 3)) == (True, [["c"]])


def test_rows_that_may_lack_values_keep_the_older_ones() -> None:
    """Until a whole row comes, or a delete."""
    partial = {"id": 1, "a": PLACEHOLDER, "b": "2"}

    assert _folded(change("c"), change("u", row=partial), change("u", row=partial)) == (False, [["c", "u", "u"]])
    assert _folded(change("c"), change("u", row=partial), change("u")) == (False, [["u"]])
    assert _folded(change("c"), change("u", row=partial), change("d")) == (False, [["d"]])
    assert _folded(change("d"), change("c", row=partial)) == (False, [["c"]])


def test_a_change_without_a_key_is_refused() -> None:
    """There is nothing to fold it by."""
    with pytest.raises(RecordError, match="without a key"):
        compact([change("c", key=1)._replace(key=None)], {TABLE.id: decoder()})


@pytest.mark.parametrize("key", [b'{"d":"s3cr3t"}', b'{"other":1}', b'{"d":1', b"\xff", b'{"d":' + b"[" * 100_000])
def test_a_key_that_cannot_be_decoded_is_refused(key: bytes) -> None:
    """Without its value: one such record stops its partition, not the service."""
    dated = Table("shop", "t", (column("d", "date"),), ("d",))
    with pytest.raises(RecordError, match=r"primary key \(d\)") as caught:
        compact([change("c")._replace(key=key)], {dated.id: decoder(dated)})

    assert "s3cr3t" not in str(caught.value)


def test_tables_do_not_meet() -> None:
    """Equal keys of two tables are two rows."""
    other = TableId("shop", "other")
    found = compact([change("c"), change("c", table=other)], {TABLE.id: decoder(), other: decoder()})

    assert list(found) == [TABLE.id, other]
