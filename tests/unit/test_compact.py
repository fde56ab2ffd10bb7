"""The last state of each key."""

from __future__ import annotations

import pytest
from tests.unit.make import PLACEHOLDER, TABLE, change, column, compact_json, decoder

from deltasync.change import Change
from deltasync.compact import compact
from deltasync.errors import RecordError
from deltasync.table import Table, TableId


def _folded(*changes: Change) -> tuple[bool, list[list[str]]]:
    found = compact(changes, {TABLE.id: decoder()})[TABLE.id]
    return found.truncated, [[one.op.value for one in chain.changes] for chain in found.chains]


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


PARTIAL: dict[str, object] = {"a": PLACEHOLDER, "b": "2"}


def _moved(old: int, new: int, row: dict[str, object] | None = None) -> Change:
    return change("c", new, row=row or {"id": new, **PARTIAL}, old_key=compact_json({"id": old}))


def _chains(*changes: Change) -> dict[bytes | None, tuple[str, bytes | None]]:
    """Per key: the ops that still matter, and under which key the replica holds what they lack."""
    found = compact(changes, {TABLE.id: decoder()})[TABLE.id].chains
    return {c.newest.key: ("".join(one.op.value for one in c.changes), c.origin) for c in found}


def test_a_changed_key_leaves_a_deleted_one() -> None:
    """What the row lacks is on the replica under the key that it had before the batch, however often it changed."""
    one, two, three = (compact_json({"id": n}) for n in (1, 2, 3))

    assert _chains(_moved(1, 2)) == {one: ("d", None), two: ("c", one)}
    assert _chains(_moved(1, 2), _moved(2, 3)) == {one: ("d", None), two: ("d", None), three: ("cc", one)}
    assert _chains(_moved(1, 2, {"id": 2, "a": "x", "b": "1"})) == {one: ("d", None), two: ("c", None)}
    assert _chains(change("c"), _moved(1, 2)) == {one: ("d", None), two: ("cc", one)}
    assert _chains(_moved(1, 2), change("u", 2, row={"id": 2, **PARTIAL})) == {one: ("d", None), two: ("cu", one)}
    assert _chains(_moved(1, 2), change("u", 2)) == {one: ("d", None), two: ("u", None)}
    assert _chains(_moved(1, 2), change("c", 1)) == {one: ("c", None), two: ("c", one)}
    assert _chains(_moved(1, 2), change("d", 2)) == {one: ("d", None), two: ("d", None)}


def test_swapped_keys() -> None:
    """Each row is found under the key that it had."""
    found = _chains(_moved(1, 3), _moved(2, 1), _moved(3, 2))

    assert found[compact_json({"id": 1})] == ("c", compact_json({"id": 2}))
    assert found[compact_json({"id": 2})] == ("cc", compact_json({"id": 1}))
    assert found[compact_json({"id": 3})] == ("d", None)


def test_a_key_that_changes_only_in_text_is_no_other_row() -> None:
    """1.0 and 1.00 are one key: nothing is deleted."""
    table = Table("shop", "t", (column("id", "numeric"), column("a", "text")), ("id",))
    row: dict[str, object] = {"id": "1.00", "a": PLACEHOLDER}
    moved = change("c", "1.00", row=row, old_key=compact_json({"id": "1.0"}))
    (chain,) = compact([moved], {table.id: decoder(table)})[table.id].chains

    assert (chain.newest.row is not None, chain.origin) == (True, compact_json({"id": "1.0"}))


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
