"""The state of a partition in Kafka: whoever took it over last is the only one who writes."""

import asyncio
import gc
from typing import Any

import pytest

from bitbylaw_common import topics
from bitbylaw_common.errors import OwnershipLost
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.ports import Outgoing

pytestmark = pytest.mark.kafka
BASE = topics.base("toy")


def base(value: str) -> Outgoing:
    return Outgoing(BASE.name, b"thing:a", value.encode(), {}, 3)


async def test_a_writer_that_was_overtaken_is_refused_and_leaves_no_complaint_in_the_log(
    kafka_bootstrap: str,
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    connect = {"bootstrap_servers": kafka_bootstrap}
    async with admin(connect) as kafka:
        await kafka.apply([BASE])
    async with KafkaLog(connect, service="toy") as log:
        # given a state that another process took over
        state = await log.take_over("toy", 3)
        await state.write([base("first")])
        successor = await log.take_over("toy", 3)
        await successor.write([base("second")])

        # when its former owner writes
        with pytest.raises(OwnershipLost, match="written by another worker now"):
            await state.write([base("too late")])
        with pytest.raises(OwnershipLost):
            await state.write([base("and again")])
        await state.close()
        await successor.close()

        # then the log holds what the owners wrote, and what was refused was told once
        found = [record.value async for record in log.read({(BASE.name, 3): 0})]
        assert found[-1] == b"second"
        assert b"too late" not in found
    del state, successor
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
