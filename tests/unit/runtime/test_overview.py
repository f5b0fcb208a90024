"""What a whole service keeps about its records: the last word of each, over all partitions."""

from datetime import timedelta

from bitbylaw_common import topics
from bitbylaw_common.runtime.hosts.memory_host import ManualClock, MemoryLog
from bitbylaw_common.runtime.overview import Overview, overview
from bitbylaw_common.runtime.ports import Outgoing
from unit.cli.shelf import entry, letter

SERVICE = "document-sync"
BASE = topics.base(SERVICE).name
SCHEDULE = topics.schedule(SERVICE).name
DLQ = topics.dlq(SERVICE).name


async def seen(*records: Outgoing) -> Overview:
    log = MemoryLog(ManualClock())
    for record in records:
        log.store([record])
    return await overview(log, SERVICE, "document")


def base(document: str, value: bytes | None, partition: int) -> Outgoing:
    return Outgoing(BASE, f"document:{document}".encode(), value, partition=partition)


async def test_the_last_base_of_each_record_counts_whoever_owns_its_partition() -> None:
    found = await seen(
        base("d1", b"old", 0),
        base("d2", b"two", 11),
        base("d1", b"new", 0),
        base("d3", b"three", 5),
        base("d3", None, 5),
        Outgoing(BASE, b"cron:steps::Sweep::trigger::0", b"a watermark", partition=5),
        Outgoing(BASE, b"documents:d9", b"another kind", partition=5),
    )
    assert found.bases == {"d1": b"new", "d2": b"two"}


async def test_what_waits_are_retries_and_waits_of_that_kind_of_record() -> None:
    again, later = entry("d1"), entry("d2", kind="wait")
    gone, dead = entry("d3"), entry("d4", kind="dead", due=timedelta(minutes=15))
    tick = entry("steps::Sweep::trigger::0", entity="cron", kind="tick")
    found = await seen(
        *(Outgoing(SCHEDULE, e.lane.to_bytes(), e.to_bytes()) for e in (again, later, gone)),
        *(Outgoing(SCHEDULE, e.lane.to_bytes(), e.to_bytes()) for e in (dead, tick)),
        Outgoing(SCHEDULE, gone.lane.to_bytes(), None),
    )
    assert found.waiting == {"d1": again, "d2": later}


async def test_the_last_dead_letter_of_a_record_counts() -> None:
    first, second = letter("d1"), letter("d1", reason="again")
    found = await seen(
        *(Outgoing(DLQ, b"d1", one.to_bytes(), partition=3) for one in (first, second)),
        Outgoing(DLQ, b"b1", letter("b1", entity="beteiligte").to_bytes()),
    )
    assert found.letters == {"d1": second}


async def test_what_cannot_be_read_is_counted_and_hides_nothing_else() -> None:
    found = await seen(
        Outgoing(DLQ, b"d1", b"{broken"),
        Outgoing(DLQ, b"d2", letter("d2").to_bytes()),
        Outgoing(SCHEDULE, entry("d3").lane.to_bytes(), b"\xff"),
        Outgoing(SCHEDULE, entry("d4").lane.to_bytes(), entry("d4").to_bytes()),
    )
    assert found.unreadable == 2
    assert set(found.letters) == {"d2"}
    assert set(found.waiting) == {"d4"}
