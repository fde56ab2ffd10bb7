"""Which replica columns may take a source column's values."""

from __future__ import annotations

import pytest
from tests.unit.make import column

from deltasync.replica.misfit import holds


@pytest.mark.parametrize(
    ("found", "source", "fits"),
    [
        (("varchar", "character varying(10)"), ("varchar", "character varying(10)"), True),
        (("varchar", "character varying(10)"), ("varchar", "character varying(50)"), False),
        (("varchar", "character varying"), ("varchar", "character varying(50)"), True),
        (("text", "text"), ("varchar", "character varying(50)"), True),
        (("varchar", "character varying"), ("text", "text"), True),
        (("varchar", "character varying(10)"), ("text", "text"), False),
        (("numeric", "numeric(10,2)"), ("numeric", "numeric(12,2)"), False),
        (("numeric", "numeric"), ("numeric", "numeric(12,2)"), True),
        (("timestamptz", "timestamp(0) with time zone"), ("timestamptz", "timestamp with time zone"), False),
        (("int8", "bigint"), ("int4", "integer"), True),
        (("int4", "integer"), ("int8", "bigint"), False),
        (("float4", "real"), ("float8", "double precision"), False),
        (("bpchar", "character"), ("bpchar", "character(5)"), False),
        (("timestamp", "timestamp without time zone"), ("timestamptz", "timestamp with time zone"), False),
    ],
)
def test_a_narrower_column_is_refused(found: tuple[str, str], source: tuple[str, str], *, fits: bool) -> None:
    """PostgreSQL would cut or round the value in silence."""
    assert holds(column("c", *found), column("c", *source)) is fits
