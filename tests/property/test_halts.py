"""Where records are missing, a worker halts and names the partition: nothing is guessed, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.property.commits import BrokenError
from tests.property.memory_store import MemoryStore
from tests.property.scenario import Scenario
from tests.property.shrink import watched
from tests.property.world import World

from deltasync.change import Partition
from deltasync.kafka.memory import Broker

ITEM, DAY = Partition("p.shop.item", 0), Partition("p.shop.day", 0)
_INSERTS = tuple(op for n in range(8) for op in (("insert", 0, 0, n), ("insert", 0, 1, n), ("commit", 0, 0, 0)))
_SCENARIO = Scenario(("item", "day"), (), 1, 5, tombstones=False, aborted_reads=0, before=(), ops=_INSERTS)
_ALL = (("emit", 0, 0, 11), ("emit", 0, 0, 11), ("step", 0, 0, 0), ("step", 0, 0, 0), ("step", 0, 0, 0))


def _recreated(broker: Broker) -> None:
    broker.delete(ITEM.topic)
    broker.create(ITEM.topic)


def _expired(broker: Broker) -> None:
    for _ in range(9):
        broker.produce(ITEM, b"{}", None)
    broker.expire(ITEM, 12)


def _truncated(broker: Broker) -> None:
    broker.truncate(ITEM, 2)


def level(world: World, store: MemoryStore) -> bool:
    """Whether all that the broker holds is applied."""
    logs = {partition: world.broker.log(partition) for partition in store.ledger()}
    return all(log and store.ledger()[partition].next_offset == log.end_offset for partition, log in logs.items())


@pytest.fixture(autouse=True)
def _watched() -> Iterator[None]:
    with watched():
        yield


@pytest.mark.parametrize("killed", [True, False], ids=["while no worker runs", "under a worker"])
@pytest.mark.parametrize("lose", [_recreated, _expired, _truncated])
def test_missing_records_halt(lose: Callable[[Broker], None], *, killed: bool) -> None:
    """Its ledger stays where it was, and no worker that comes later goes on."""
    ops = (*_INSERTS, *_ALL, *((("kill", 0, 0, 0),) if killed else ()))
    world = World(_SCENARIO._replace(ops=ops), store := MemoryStore())
    world.perform(len(ops))
    applied = store.ledger()[ITEM].next_offset
    assert applied > 2
    lose(world.broker)
    with pytest.raises(BrokenError, match=r"not level .*p\.shop\.item\[0\] stopped: (The topic|Records of)"):
        world.run()

    assert store.ledger()[ITEM].next_offset == applied
    log = world.broker.log(DAY)
    assert log is not None
    assert store.ledger()[DAY].next_offset == log.end_offset


@pytest.mark.parametrize("whole", [False, True], ids=["by key", "whole transactions"])
def test_another_source_halts_all(*, whole: bool) -> None:
    """Nothing of it is applied from its first beat on, by no worker that comes later; accepted, all of it is."""
    world = World(_SCENARIO._replace(ops=(), whole=whole, workers=2), store := MemoryStore())
    insert, beat, turn = (("insert", 0, 0, 50), ("commit", 0, 0, 0)), ("beat", 0, 0, 0), _ALL + (("step", 1, 0, 0),) * 3
    world.do(*insert, beat, *turn, *turn)
    world.become_another_source()
    world.do(beat, *turn, *turn)
    applied = store.ledger()
    world.do(("insert", 0, 0, 51), ("commit", 0, 0, 0), beat, *turn, ("kill", 0, 0, 0), *turn)
    assert store.ledger() == applied
    assert [found for found in store.told() if "The source is another one" in found] == store.told() != []
    with pytest.raises(BrokenError, match=r"not level .* stopped: The source is another one"):
        world.run()
    assert store.ledger() == applied

    world.accept_source()
    world.do(*turn, *turn)
    assert level(world, store)
    assert store.told() == []


def test_a_beat_that_never_came_is_told() -> None:
    """What follows it is applied all the same."""
    world = World(_SCENARIO._replace(ops=()), store := MemoryStore())
    world.do(("beat", 0, 0, 0), *_ALL, *_ALL)
    world.lose_beat()
    world.do(("beat", 0, 0, 0), *_ALL)
    assert ["Beat 2 of" in found for found in store.told()] == [True, True]
    assert level(world, store)


def test_partitions_that_are_added_halt() -> None:
    """Nothing of them is applied, whoever is assigned one, until an operator says so; the old one goes on."""
    world = World(_SCENARIO._replace(ops=(), workers=2), store := MemoryStore())
    insert, turn = (("insert", 0, 0, 50), ("commit", 0, 0, 0)), _ALL + (("step", 1, 0, 0),) * 3
    world.do(*insert, *turn, *turn)
    added = ITEM._replace(number=1)
    record = world.broker.records(ITEM, 0)[-1]
    world.broker.grow(ITEM.topic, 2)
    world.broker.produce(added, record.key, record.value)
    world.do(("insert", 0, 0, 51), ("commit", 0, 0, 0), *turn, *turn, ("kill", 0, 0, 0), *turn, *turn)
    assert level(world, store)
    assert added not in store.ledger()
    with pytest.raises(BrokenError, match=r"p\.shop\.item\[1\] stopped: The partition .* was added to a topic in use"):
        world.run()

    log = world.broker.log(added)
    assert log is not None
    store.place(added, log.topic_id, 0)
    world.run()
    assert level(world, store)
    assert added in store.ledger()
