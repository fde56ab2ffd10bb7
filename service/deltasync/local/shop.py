"""The shop of the demo: customers, orders and order lines, with every kind of value that a shop has."""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString, NamedTuple

import psycopg

_CREATE = """
    CREATE TYPE shop.order_status AS ENUM ('new', 'paid', 'sent', 'returned');
    CREATE TABLE shop.customer (
        id         bigint PRIMARY KEY,
        email      text NOT NULL,
        joined_at  timestamptz NOT NULL,
        interests  text[],
        profile    jsonb,
        letter     text
    );
    -- Large values that are stored out of line do not travel with an update that leaves them alone.
    ALTER TABLE shop.customer ALTER letter SET STORAGE EXTERNAL;
    CREATE TABLE shop.orders (
        id           bigint PRIMARY KEY,
        customer_id  bigint NOT NULL,
        status       shop.order_status NOT NULL DEFAULT 'new',
        total        numeric(12, 2) NOT NULL,
        ordered_at   timestamptz NOT NULL,
        sent_at      timestamptz,
        delivery     jsonb
    );
    CREATE TABLE shop.order_line (
        order_id  bigint,
        line      int,
        article   text NOT NULL,
        quantity  int NOT NULL CHECK (quantity > 0),
        price     numeric NOT NULL,
        discount  numeric(5, 4),
        amount    numeric GENERATED ALWAYS AS (quantity * price) STORED,
        PRIMARY KEY (order_id, line)
    );
"""
# After the rows: checked for all of them at once.
_RELATE = """
    ALTER TABLE shop.orders ADD FOREIGN KEY (customer_id) REFERENCES shop.customer;
    ALTER TABLE shop.order_line ADD FOREIGN KEY (order_id) REFERENCES shop.orders;
"""
LINES_PER_ORDER = 2
# Each fills the rows from %(first)s to %(last)s.
_FILL: dict[str, LiteralString] = {
    "customer": """
        INSERT INTO shop.customer
        SELECT n, format('customer%%s@example.com', n), timestamptz '2020-01-01 UTC' + n * interval '17.123457 minutes',
               CASE n %% 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY['books', NULL, format('"%%s", \\', n %% 7)] END,
               CASE WHEN n %% 3 > 0 THEN jsonb_build_object('level', n %% 5, 'since', 2000 + n %% 9, 'no', E'\\t') END,
               CASE WHEN n %% 200 = 0 THEN repeat(md5(n::text), 100) END
          FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n""",
    "orders": """
        INSERT INTO shop.orders
        SELECT n, 1 + n * 7919 %% %(customers)s::bigint, (enum_range(NULL::shop.order_status))[1 + n %% 3],
               (n * 37 %% 100000) / 100.0, timestamptz '2025-01-01 UTC' + n * interval '3.000001 minutes',
               CASE WHEN n %% 3 = 2 THEN timestamptz '2025-01-02 UTC' + n * interval '3 minutes' END,
               CASE WHEN n %% 2 = 0 THEN jsonb_build_object('street', format('Way %%s', n %% 900), 'floor', n %% 9) END
          FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n""",
    "order_line": """
        INSERT INTO shop.order_line
        SELECT 1 + n / %(lines)s, 1 + n %% %(lines)s, format('article %%s', n %% 5000), 1 + n %% 4,
               (n * 31 %% 20000) / 1000.0, CASE WHEN n %% 10 = 0 THEN 0.0500 END
          FROM generate_series(%(first)s::bigint - 1, %(last)s::bigint - 1) AS n""",
}
_CHUNK_ROWS = 25_000


class Size(NamedTuple):
    """How large the shop is at first; each order has two lines."""

    customers: int
    orders: int

    def rows(self) -> dict[str, int]:
        """The rows of each table of the schema `shop`."""
        return {"customer": self.customers, "orders": self.orders, "order_line": self.orders * LINES_PER_ORDER}


def fill(dsn: str, size: Size, filled: Callable[[int], None]) -> None:
    """Create and fill the shop's tables in the empty schema `shop`; `filled` hears how many rows there are. Blocks."""
    done = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_CREATE)
        for table, rows in size.rows().items():
            for first in range(1, rows + 1, _CHUNK_ROWS):
                last = min(first + _CHUNK_ROWS - 1, rows)
                values = {"first": first, "last": last, "customers": size.customers, "lines": LINES_PER_ORDER}
                connection.execute(_FILL[table], values)
                done += last - first + 1
                filled(done)
        connection.execute(_RELATE)
        connection.execute("ANALYZE")
