"""What the source holds, and what happens to it: the data of each work."""

from __future__ import annotations

from typing import NamedTuple

SCHEMA = "shop"


class Shape(NamedTuple):
    """`fill` makes the rows of the snapshot, `change` the changes behind it: SQL, run in autocommit.

    Each table in `tables` has an integer `id`. The last change of each is a row with the id of `MARK`: where that is
    visible on a replica, all is. `changes` counts Debezium's records of `change`, `rows` those of `fill`.
    """

    name: str
    tables: tuple[str, ...]
    create: str
    fill: str
    change: str
    rows: int
    changes: int

    @property
    def records(self) -> int:
        return self.rows + self.changes + len(self.tables)


MARK = -1


def mark(table: str) -> str:
    """The statement that writes the last row of a table."""
    return f"INSERT INTO {SCHEMA}.{table} (id) VALUES ({MARK})"


def is_marked(table: str) -> str:
    """The query that has a row where the last row of a table is visible."""
    return f"SELECT FROM {SCHEMA}.{table} WHERE id = {MARK}"


def shop(scale: float) -> Shape:
    """Orders with their lines and customers: 350,000 rows, then 50,000 transactions of nine changes."""
    orders, transactions = round(100_000 * scale), round(50_000 * scale)
    customers, lines = orders // 2, orders * 2
    return Shape(
        name="shop",
        tables=("customer", "orders", "order_line"),
        create="""
            CREATE TABLE shop.customer (id bigint PRIMARY KEY, email text, joined_at timestamptz, interests text[],
                                        profile jsonb, level int);
            CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer_id bigint, status text, total numeric(12, 2),
                                      ordered_at timestamptz, sent_at timestamptz, delivery jsonb, tags text[]);
            CREATE TABLE shop.order_line (id bigint PRIMARY KEY, order_id bigint, article text, quantity int,
                                          price numeric(12, 2));
        """,
        fill=f"""
            INSERT INTO shop.customer
            SELECT n, format('customer%s@example.com', n), timestamptz '2020-01-01 UTC' + n * interval '17.123457 min',
                   ARRAY['books', format('"%s", \\', n % 7)],
                   jsonb_build_object('level', n % 5, 'since', 2000 + n % 9), 1
              FROM generate_series(1, {customers}) AS n;
            INSERT INTO shop.orders
            SELECT n, 1 + n::bigint * 7919 % {customers}, 'new', (n * 37 % 100000) / 100.0,
                   timestamptz '2025-01-01 UTC' + n * interval '3.000001 min', NULL,
                   jsonb_build_object('street', format('Way %s', n % 900), 'floor', n % 9), ARRAY['web', 'gift']
              FROM generate_series(1, {orders}) AS n;
            INSERT INTO shop.order_line
            SELECT n, 1 + (n - 1) / 2, format('article %s', n % 5000), 1 + n % 4, (n * 31 % 20000) / 100.0
              FROM generate_series(1, {lines}) AS n;
        """,
        change=f"""
            DO $$
            DECLARE old bigint; line bigint;
            BEGIN
                FOR n IN 1 .. {transactions} LOOP
                    old := 1 + n::bigint * 7919 % {orders};
                    line := {lines} + n * 3;
                    INSERT INTO shop.orders VALUES ({orders} + n, 1 + n % {customers}, 'new', n / 100.0,
                        timestamptz '2026-01-01 UTC' + n * interval '1.000001 s', NULL,
                        '{{"street": "Way"}}', '{{web}}');
                    INSERT INTO shop.order_line VALUES (line, {orders} + n, 'article', 1, 1.10),
                        (line + 1, {orders} + n, 'article', 2, 2.20), (line + 2, {orders} + n, 'article', 3, 3.30);
                    UPDATE shop.customer SET level = level + 1 WHERE id = 1 + n % {customers};
                    UPDATE shop.orders SET status = 'paid', sent_at = ordered_at + interval '1 day' WHERE id = old;
                    UPDATE shop.order_line SET quantity = quantity + 1 WHERE id IN (old * 2 - 1, line + 1);
                    DELETE FROM shop.order_line WHERE id = line + 2;
                    COMMIT;
                END LOOP;
            END $$
        """,
        rows=customers + orders + lines,
        changes=transactions * 9,
    )


def hot(scale: float) -> Shape:
    """A thousand rows, updated a million times."""
    updates = round(1_000_000 * scale)
    return Shape(
        name="hot",
        tables=("counter",),
        create="CREATE TABLE shop.counter (id bigint PRIMARY KEY, n bigint, at timestamptz, note text)",
        fill="INSERT INTO shop.counter SELECT n, 0, '2026-01-01 UTC', 'a note' FROM generate_series(1, 1000) AS n",
        change=f"""
            DO $$ BEGIN
                FOR turn IN 1 .. {updates // 100} LOOP
                    UPDATE shop.counter SET n = n + 1, at = at + interval '1 s'
                     WHERE id BETWEEN 1 + turn % 10 * 100 AND 100 + turn % 10 * 100;
                    COMMIT;
                END LOOP;
            END $$
        """,
        rows=1000,
        changes=updates // 100 * 100,
    )


def wide(scale: float) -> Shape:
    """Rows of 200 columns, one of them 2 KB of JSON."""
    rows, updates = round(20_000 * scale), round(20_000 * scale)
    columns = [f"c{n} {('int', 'text', 'numeric', 'timestamptz')[n % 4]}" for n in range(198)]
    values = ("n", "'value ' || n", "n / 100.0", "timestamptz '2026-01-01 UTC' + n * interval '1 s'")
    filled = ", ".join(values[n % 4] for n in range(198))
    return Shape(
        name="wide",
        tables=("wide",),
        create=f"CREATE TABLE shop.wide (id bigint PRIMARY KEY, {', '.join(columns)}, document jsonb);"
        "ALTER TABLE shop.wide ALTER document SET STORAGE MAIN",
        fill=f"INSERT INTO shop.wide SELECT n, {filled}, jsonb_build_object('text', repeat(md5(n::text), 62))"
        f" FROM generate_series(1, {rows}) AS n",
        change=f"""
            DO $$ BEGIN
                FOR n IN 0 .. {updates // 100 - 1} LOOP
                    UPDATE shop.wide SET c0 = c0 + 1, c1 = 'changed' WHERE id BETWEEN n * 100 + 1 AND n * 100 + 100;
                    COMMIT;
                END LOOP;
            END $$
        """,
        rows=rows,
        changes=updates // 100 * 100,
    )


def huge(scale: float) -> Shape:
    """One transaction of two million rows."""
    rows = round(2_000_000 * scale)
    return Shape(
        name="huge",
        tables=("ledger",),
        create="CREATE TABLE shop.ledger (id bigint PRIMARY KEY, account bigint, amount numeric(12, 2), note text)",
        fill="",
        change="INSERT INTO shop.ledger SELECT n, n % 1000, n / 100.0, 'a booking of account ' || n % 1000"
        f" FROM generate_series(1, {rows}) AS n",
        rows=0,
        changes=rows,
    )


def many(scale: float) -> Shape:
    """500 tables, all with traffic."""
    names = [f"t{n:03}" for n in range(500)]
    turns = round(100 * scale)
    loop = "FOREACH name IN ARRAY tables LOOP EXECUTE format('{}', name, n); COMMIT; END LOOP;"
    return Shape(
        name="many",
        tables=tuple(names),
        create=";".join(f"CREATE TABLE shop.{name} (id bigint PRIMARY KEY, n int, note text)" for name in names),
        fill=";".join(
            f"INSERT INTO shop.{name} SELECT n, 0, 'a note' FROM generate_series(1, 100) n" for name in names
        ),
        change=f"""
            DO $$
            DECLARE name text; tables text[] := ARRAY{names};
            BEGIN
                FOR n IN 1 .. {turns} LOOP
                    {loop.format("UPDATE shop.%I SET n = %2$s WHERE id = 1 + %2$s %% 100")}
                    {loop.format("INSERT INTO shop.%I VALUES (100 + %s, 0, ''new'')")}
                END LOOP;
            END $$
        """,
        rows=500 * 100,
        changes=500 * 2 * turns,
    )


def ticks() -> Shape:
    """A thousand orders, to which a work adds its own: those have higher ids, and go before the next run."""
    return Shape(
        name="ticks",
        tables=("orders",),
        create="CREATE TABLE shop.orders (id bigint PRIMARY KEY, status text, total numeric(12, 2), at timestamptz)",
        fill="INSERT INTO shop.orders SELECT n, 'paid', n, '2026-01-01 UTC' FROM generate_series(1, 1000) AS n",
        change="",
        rows=1000,
        changes=0,
    )


def filled(scale: float) -> Shape:
    """The shop before its first change, with 2,000,000 rows."""
    return shop(scale * 40 / 7)._replace(name="filled", change="", changes=0)
