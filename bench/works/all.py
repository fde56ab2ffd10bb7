"""All works, by the names that the command takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.contestants import (
    DEFAULTS,
    NATIVELY,
    OURS,
    OURS_SCHEMAS,
    OURS_TWO,
    TUNED,
    TUNED_3,
    TUNED_LARGER,
    UNNEST_3,
)
from bench.shapes import Shape, filled, hot, huge, many, shop, wide
from bench.works import Pair, Work
from bench.works.apply import Apply, Growth
from bench.works.capture import CaptureWork
from bench.works.live import Idle, Latency
from bench.works.load import WAYS, Load

BEST_SINK = "best sink"
_PEERS = (OURS, NATIVELY, TUNED, TUNED_3)
_LIVE = (OURS, TUNED, NATIVELY)
_RATES = tuple(Pair("deltasync", other) for other in (BEST_SINK, "sink, tuned", "logical replication"))
_LATENCIES = tuple(
    Pair("deltasync", other, figure)
    for other in ("sink, tuned", "logical replication")
    for figure in ("p50_ms", "p99_ms")
)
_CPU = "cpu_service"
_SHOP_RECORDS = 800_000


def _growing(records: int) -> Callable[[float], Shape]:
    def shape(scale: float) -> Shape:
        return shop(scale * records / _SHOP_RECORDS)._replace(name=f"shop{records // 1000}k")

    return shape


_WORKS: tuple[Work, ...] = (
    Apply(
        "backlog",
        "the shop: a snapshot of 350,000 rows and 50,000 transactions of 9 changes lie in Kafka, the replica is empty",
        shop,
        (OURS, OURS_SCHEMAS, OURS_TWO, TUNED, TUNED_LARGER, TUNED_3, UNNEST_3, DEFAULTS),
        (
            Pair("deltasync", BEST_SINK),
            Pair("deltasync", "sink, tuned"),
            Pair("deltasync", "sink, defaults"),
            Pair("deltasync, schemas", BEST_SINK),
            Pair("deltasync, schemas", "sink, tuned"),
            Pair("deltasync, 2 workers", "deltasync"),
            Pair("deltasync, 2 workers", "deltasync", _CPU),
        ),
        changes=False,
    ),
    Apply("changes", "only the shop's changes, onto its snapshot", shop, _PEERS, _RATES),
    Apply(
        "end-to-end",
        "the shop's changes lie in the source's log: from the connector's start to equal databases",
        shop,
        _PEERS,
        _RATES,
        live=True,
    ),
    Load(
        "load",
        "2,000,000 rows of the shop onto an empty replica",
        filled,
        WAYS,
        (
            Pair("deltasync bootstrap", "COPY binary"),
            Pair("deltasync bootstrap", "logical replication"),
            Pair("deltasync", BEST_SINK),
            Pair("deltasync", "sink, tuned"),
        ),
    ),
    Latency("latency", "500 transactions per second for a minute: commit to visible", 500, _LIVE, _LATENCIES),
    Latency("latency-idle", "a transaction every 100 ms for a minute: commit to visible", 10, _LIVE, _LATENCIES),
    Apply("hot", "1,000,000 updates of 1,000 rows", hot, _PEERS, _RATES),
    Apply("wide", "20,000 updates of rows of 200 columns, one of them 2 KB of jsonb", wide, _PEERS, _RATES),
    Apply("huge", "one transaction of 2,000,000 rows", huge, _PEERS, _RATES),
    Apply("many", "500 tables, all with traffic", many, _PEERS, _RATES),
    CaptureWork("capture", "the shop's changes from the source's log into Kafka", shop),
    Growth(
        "growth",
        "the shop's backlog in two sizes: CPU seconds of the service per million changes",
        {"deltasync, 100k records": _growing(100_000), "deltasync, 5M records": _growing(5_000_000)},
        OURS,
        (Pair("deltasync, 5M records", "deltasync, 100k records", _CPU),),
    ),
    Idle("idle", "nothing is written: CPU in percent of a core", _LIVE, ()),
)
WORKS: Mapping[str, Work] = {work.name: work for work in _WORKS}
# Small enough for five minutes, and what matters most.
QUICK_WORKS = ("backlog", "changes", "latency")
QUICK_CONTESTANTS = ("deltasync", "sink, tuned", "logical replication")
