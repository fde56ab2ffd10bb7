"""Records of transactions in a few partitions, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from tests.runs import run_id
from tests.unit.make import envelope, record

from deltasync.change import NEW_KEY, RUN, Partition, Record, Told
from deltasync.progress import Progress
from deltasync.spool import Spool
from deltasync.transactions import Transactions
from deltasync.whole import Unit

ENDS = Partition("p.transaction", 0)
A, B = Partition("p.shop.a", 0), Partition("p.shop.a", 1)
# A transaction's number is where the one before it ended; it ends at the next hundred.
NEW = {ENDS: Progress(), A: Progress(), B: Progress()}


class Log:
    """What the partitions hold, and what of it is applied."""

    def __init__(self, *, rows_max: int = 100, at: Mapping[Partition, Progress] | None = None) -> None:
        self.at = dict(at or NEW)
        self.transactions = Transactions(ENDS, rows_max, 100_000, partial(Spool, 10**6))
        self.offsets: dict[Partition, int] = {p: progress.next_offset for p, progress in self.at.items()}
        self.young: frozenset[Partition] = frozenset()
        self.several: frozenset[Partition] = frozenset()

    def put(self, partition: Partition, value: object, *, moves: bool = False, run: int = 0) -> Record:
        found = record(value, self.offsets[partition], partition=partition)
        self.offsets[partition] += 1
        headers = [(RUN, run_id(run).encode()), *([(NEW_KEY, b"{}")] if moves else [])]
        return found._replace(message=Told(headers, run))

    def change(  # noqa: PLR0913 - what tells a change
        self,
        partition: Partition,
        number: int,
        order: int,
        op: str = "u",
        *,
        higher: int = 0,
        run: int = 0,
        **more: bool,
    ) -> Record:
        """The change at such a place of a transaction, numbered so much higher than that."""
        place = number * 100
        value = envelope(op, sequence=f'["{place}","{place + order}"]', ts_us=place * 1000)
        value["transaction"] = {"id": f"{number}:{place + order}", "total_order": order + higher}
        return self.put(partition, value, run=run, **more)

    def read(self, partition: Partition, place: int = 1) -> Record:
        return self.put(partition, envelope("r", sequence=f'[null,"{place}"]'))

    def begin(self, number: int, run: int = 0) -> Record:
        return self.put(ENDS, {"status": "BEGIN", "id": f"{number}:{number * 100}", "ts_ms": 1}, run=run)

    def end(self, number: int, count: int, run: int = 0) -> Record:
        tables = [{"data_collection": "shop.a", "event_count": count}]
        end = {"status": "END", "id": f"{number}:{number * 100 + 100}", "event_count": count, "ts_ms": number * 100}
        return self.put(ENDS, {**end, "data_collections": tables}, run=run)

    def taken(self, *records: Record) -> list[Unit]:
        """What can be applied once these have come, and is then."""
        assert self.transactions.take(records, self.at, self.young, self.several)
        units = list(self.transactions.ready())
        self.at.update({read.partition: read.progress for unit in units for read in unit.reads})
        return units


def orders(units: Sequence[Unit]) -> list[list[int]]:
    """The numbers of the changes in each transaction."""
    return [[r.change.order or 0 for r in unit.reads if r.change] for unit in units if unit.end is not None]
