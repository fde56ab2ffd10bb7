"""What the canary tells of the source: another one, one that failed over, and beats that never came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from deltasync.canary import Beat, Judgement, beat, judge, parted
from deltasync.change import Change, Op, Partition, Position
from deltasync.debezium.schema_log import CANARY
from deltasync.errors import RecordError
from deltasync.table import TableId

START = datetime(2026, 1, 1, tzinfo=UTC)


def of(number: int, *, system: str = "1", timeline: int = 1, read: bool = False) -> Beat:
    return Beat("p", number, START + timedelta(seconds=number), system, timeline, read)


def change(row: bytes | None, *, op: Op = Op.UPDATE, table: TableId = CANARY) -> Change:
    return Change(table, op, b"{}", row, Position(1, 2, 3), Partition("p.deltasync.canary", 0), 7)


def row(pipeline: str, number: int) -> bytes:
    found = f'"pipeline":"{pipeline}","beat":{number},"beat_at":"2026-01-01T00:00:0{number}Z"'
    return b'{%s,"publication_digest":"d","system_identifier":"1","timeline":1}' % found.encode()


@pytest.mark.parametrize(
    ("known", "came"),
    [
        (None, [of(7), of(8)]),
        (of(7), [of(8), of(9)]),
        (of(7), [of(5), of(6), of(7), of(8)]),
        (of(7), [of(7), of(8)]),
        (of(7), [of(2), of(3)]),
        (of(7), [of(20, read=True), of(21)]),
    ],
    ids=["the first", "one more each", "sent again", "the last one again", "counted anew", "a snapshot"],
)
def test_the_same_source(known: Beat | None, came: list[Beat]) -> None:
    """What the connector sends again has no hole, wherever it begins."""
    assert judge(known, came) == Judgement()


def test_beats_that_never_came() -> None:
    """Behind the newest one applied or within a batch, which compaction leaves one beat of."""
    for known, came in ((of(7), [of(10), of(11)]), (of(6), [of(7), of(10)]), (None, [of(7), of(10)])):
        assert str(judge(known, came).hole) == (
            "Beats 8 to 9 of the source's canary never came: rows that were committed between 2026-01-01 00:00:07 UTC "
            "and 2026-01-01 00:00:10 UTC may be missing."
        )
    assert str(judge(of(7), [of(9)]).hole).startswith("Beat 8 of the source's canary never came")
    several = str(judge(of(7), [of(9), of(10), of(13)]).hole)
    assert several.startswith("Beats 8 to 12 of the source's canary (3 of them) never came")


def test_another_source() -> None:
    """Also told by a snapshot; nothing else matters then."""
    for came in ([of(9, system="2")], [of(1, system="2", read=True)], [of(90, system="2", timeline=4)]):
        found = judge(of(7), came)
        assert found.refused is not None
        assert found == Judgement(found.refused)
        assert "its system identifier is 2, what was applied came from 1" in found.refused
    assert judge(None, [of(1, system="2")]) == Judgement()


def test_a_source_that_failed_over() -> None:
    """No hole where its beats go on; one that lost what the replica has says so."""
    level = judge(of(7), [of(8, timeline=2), of(9, timeline=2)])
    assert "to timeline 2 before 2026-01-01 00:00:08 UTC: was the connector's slot synchronised?" in str(level.doubt)
    assert (level.refused, level.hole) == (None, None)
    assert "lacks what the old one committed behind beat 5" in str(judge(of(7), [of(6, timeline=2)]).doubt)
    assert judge(of(7), [of(10, timeline=2)]).hole is not None
    assert judge(of(7, timeline=2), [of(6), of(7, timeline=2)]).doubt is not None


def test_canaries_of_other_pipelines() -> None:
    """They travel in the same topic, and would put this replica's row of them back."""
    ours, others = change(row("p", 3)), change(row("q", 4))
    kept, beats = parted([ours, others, change(None, op=Op.DELETE), change(row("p", 5), op=Op.READ)], "p")

    assert [one.row for one in kept] == [ours.row, None, row("p", 5)]
    assert [(one.beat, one.is_read) for one in beats] == [(3, False), (5, True)]
    assert parted([change(b"{}", table=TableId("shop", "t"))], "p") == ([change(b"{}", table=TableId("shop", "t"))], [])


def test_two_sources_in_a_batch() -> None:
    """It is narrowed: what came before the other source is applied."""
    other = row("p", 4).replace(b'"system_identifier":"1"', b'"system_identifier":"2"')
    with pytest.raises(RecordError):
        parted([change(row("p", 3)), change(other)], "p")


def test_a_row_that_is_no_canary() -> None:
    with pytest.raises(RecordError, match=r"canary at p\.deltasync\.canary\[0\] offset 7 cannot be read"):
        beat(change(b'{"pipeline":"p","beat":"x"}'))
