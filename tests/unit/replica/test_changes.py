"""What differs between two descriptions, the DDL for it, and what a policy makes of it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.make import TABLE, column

from deltasync.policy import Ddl
from deltasync.replica import changes as module
from deltasync.replica.changes import Kind, changes, guessed
from deltasync.table import Column, Table, TypeDefinition

POLICY = Ddl().policy


def _table(*columns: Column) -> Table:
    return Table("shop", "t", (column("id", "int8", "bigint", number=1, not_null=True), *columns), ("id",))


A = column("a", "int4", "integer", number=2, not_null=True)


@pytest.mark.parametrize(
    ("new", "kinds", "sql"),
    [
        ([], [Kind.DROP_COLUMN], ['DROP COLUMN "a"']),
        ([replace(A, name="x")], [Kind.RENAME_COLUMN], ['RENAME COLUMN "a" TO "x"']),
        ([replace(A, number=3)], [Kind.DROP_COLUMN, Kind.ADD_COLUMN], ['DROP COLUMN "a"', "ADD COLUMN"]),
        ([A, column("b", "text", number=3, default="'x'", missing="y")], [Kind.ADD_COLUMN], ["DEFAULT 'y'", "'x'"]),
        (
            [replace(A, name="x", not_null=False, default="7")],
            [Kind.RENAME_COLUMN, Kind.SET_DEFAULT, Kind.DROP_NOT_NULL],
            ["RENAME", 'ALTER "x" DROP NOT NULL', 'ALTER "x" SET DEFAULT 7'],
        ),
        (
            [column("a", "int8", "bigint", number=2, not_null=True)],
            [Kind.WIDEN_TYPE],
            ['ALTER "a" DROP DEFAULT, ALTER "a" TYPE bigint USING "a"::bigint'],
        ),
        ([column("a", "text", number=2, not_null=True)], [Kind.CHANGE_TYPE], ["TYPE text"]),
        ([A], [], []),
    ],
)
def test_each_kind_has_its_ddl(new: list[Column], kinds: list[Kind], sql: list[str]) -> None:
    """By a column's number, under its new name."""
    found = changes(_table(A), _table(*new))

    assert [change.kind for change in found] == kinds
    texts = "; ".join(text for change in found for text in change.sql)
    assert all(part in texts for part in sql)
    assert all(change.lock == "ACCESS EXCLUSIVE" for change in found)


@pytest.mark.parametrize(
    ("old", "new", "kind", "rewrites"),
    [
        (("int4", "integer"), ("int8", "bigint"), Kind.WIDEN_TYPE, True),
        (("int8", "bigint"), ("int4", "integer"), Kind.CHANGE_TYPE, True),
        (("varchar", "character varying(9)"), ("varchar", "character varying(10)"), Kind.WIDEN_TYPE, False),
        (("varchar", "character varying(9)"), ("varchar", "character varying(8)"), Kind.CHANGE_TYPE, True),
        (("varchar", "character varying"), ("varchar", "character varying(8)"), Kind.CHANGE_TYPE, True),
        (("varchar", "character varying(9)"), ("text", "text"), Kind.WIDEN_TYPE, False),
        (("numeric", "numeric(5,2)"), ("numeric", "numeric(7,2)"), Kind.WIDEN_TYPE, False),
        (("numeric", "numeric(5,2)"), ("numeric", "numeric(7,3)"), Kind.CHANGE_TYPE, True),
        (("numeric", "numeric(5,2)"), ("numeric", "numeric"), Kind.WIDEN_TYPE, False),
        (("numeric", "numeric"), ("numeric", "numeric(7,3)"), Kind.CHANGE_TYPE, True),
        (("float4", "real"), ("float8", "double precision"), Kind.CHANGE_TYPE, True),
    ],
)
def test_a_wider_type_has_the_same_texts(
    old: tuple[str, str], new: tuple[str, str], kind: Kind, *, rewrites: bool
) -> None:
    (found,) = changes(_table(column("a", *old, number=2)), _table(column("a", *new, number=2)))
    assert (found.kind, found.rewrites) == (kind, rewrites)


def test_names_that_go_round_go_by_way_of_others() -> None:
    """No statement meets a name that is still taken."""
    a, b = column("a", "text", number=2), column("b", "text", number=3)
    found = changes(_table(a, b), _table(replace(a, name="b"), replace(b, name="a")))
    names = {"a", "b"}
    for text in (text for change in found for text in change.sql):
        old, new = text.split("RENAME COLUMN ")[1].replace('"', "").split(" TO ")
        assert old in names
        assert new not in names
        names = names - {old} | {new}
    assert names == {"a", "b"}


def test_a_column_that_is_kept_may_be_null() -> None:
    """No value of it comes any more; under a name that is taken again it cannot be kept."""
    keep = {**POLICY, "drop_column": "ignore"}
    (kept,) = changes(_table(A), _table(), keep)
    assert kept.sql == ['ALTER TABLE "shop"."t" ALTER "a" DROP NOT NULL']
    assert module.action([kept], keep) == "apply"
    again = changes(_table(A), _table(replace(A, number=3)), keep)
    assert module.action(again, keep) == "hold"


def test_the_strictest_policy_counts() -> None:
    """What no DDL does exactly is held, whatever the policy."""
    added, dropped = changes(_table(A), _table(replace(A, number=3)))[::-1]
    assert module.action([added], POLICY) == "apply"
    assert module.action([added, dropped], POLICY) == "hold"
    assert module.action([added, dropped], {**POLICY, "drop_column": "stop"}) == "stop"
    (random,) = changes(_table(), _table(replace(A, default="random()")))
    assert module.action([random], POLICY) == "hold"
    assert module.is_additive([added])
    assert not module.is_additive([added, dropped])


def test_keys_and_labels() -> None:
    """Another key has no DDL of ours; a renamed key is the same one."""
    key = _table().columns[0]
    renamed = replace(_table(), columns=(replace(key, name="nr"),), primary_key=("nr",))
    assert [change.kind for change in changes(_table(), renamed)] == [Kind.RENAME_COLUMN]
    (found,) = changes(TABLE, replace(TABLE, primary_key=("id", "a")))
    assert (found.kind, found.obstacle is None) == (Kind.CHANGE_KEY, False)

    few, more = (
        replace(TABLE, types=(TypeDefinition("shop", "m", "e", labels=labels),)) for labels in (("a",), ("a", "b"))
    )
    (label,) = changes(few, more)
    assert (label.kind, label.lock) == (Kind.ADD_ENUM_LABEL, None)


@pytest.mark.parametrize(
    ("default", "constant"),
    [
        ("1.50", True),
        ("'x'::text", True),
        ("'it''s'::character varying", True),
        ("'{}'::text[]", True),
        ("'new'::shop.status", True),
        ("0::numeric(12,2)", True),
        ("true", True),
        ("now()", False),
        ("gen_random_uuid()", False),
        ("nextval('s'::regclass)", False),
        ("'a' || now()", False),
        ("'x'::text || f()", False),
        (None, True),
    ],
)
def test_only_constant_defaults_fill_added_columns(default: str | None, *, constant: bool) -> None:
    """Any other gave the source's rows values that no record carries."""
    assert (guessed([column("c", "text", default=default)]) is None) is constant
