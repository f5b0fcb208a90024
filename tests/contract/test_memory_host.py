"""What only the memory host can show: a log that fails exactly when told."""

from harness import memory_harness
from toy import CHANGED, ThingChanged


async def test_an_outage_of_the_log_holds_the_run_and_loses_nothing() -> None:
    async with memory_harness() as host:
        await host.publish(CHANGED, ThingChanged(thing="a"))
        host.fail_the_log(times=3)
        await host.until(lambda: [e.outcome for e in host.journal("a")] == ["done"])

        assert host.ledger.numbers("a") == [0]
