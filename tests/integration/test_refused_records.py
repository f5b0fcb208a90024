"""What the broker refuses by its own limits: the run ends by it, and nobody else is held up."""

import pytest

from bitbylaw_common.outcomes import Done, Outcome
from bitbylaw_common.runtime import Context
from harness import kafka_harness
from toy import CHANGED, ECHO, ORDERED, Ledger, ThingChanged

pytestmark = pytest.mark.kafka


async def test_an_event_that_is_too_large_for_its_topic_fails_its_run_and_no_other(
    kafka_bootstrap: str,
) -> None:
    async with kafka_harness(kafka_bootstrap) as host:
        large, other = host.thing("large"), host.thing("other")

        async def publish(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
            if event.thing == large:
                too_large = ThingChanged(thing="x" * 2 * ECHO.max_message_bytes)
                await ctx.enqueue(ECHO, too_large)
            return Done("published")

        host.ledger.answer = publish
        await host.publish(CHANGED, ThingChanged(thing=large))
        await host.until(lambda: host.journal(large) != [])
        await host.publish(ORDERED, ThingChanged(thing=other))
        await host.until(lambda: host.journal(other) != [])

        assert host.journal(large)[0].outcome == "bug"
        assert host.journal(other)[0].outcome == "done"
        assert host.records(ECHO) == []
