"""When a heartbeat without an answer is the broker's silence, and when our own."""

import asyncio
import time

from bitbylaw_common.kafka.silence import Silence

PATIENCE_SECONDS = 0.5


async def test_a_heartbeat_that_nobody_answers_is_silence() -> None:
    silence = Silence(PATIENCE_SECONDS)
    assert not silence.within(60)
    async with asyncio.timeout(30):
        with silence.waiting():
            while not silence.within(60):  # noqa: ASYNC110 - it tells only who asks
                await asyncio.sleep(0.01)


async def test_a_process_that_stood_still_blames_nobody() -> None:
    silence = Silence(PATIENCE_SECONDS)
    answer = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, answer.set_result, None)
    with silence.waiting():
        await asyncio.sleep(0)
        time.sleep(3 * PATIENCE_SECONDS)  # noqa: ASYNC251 - the loop is what stands still
        await answer
    assert not silence.within(60)


async def test_an_answer_ends_the_silence_and_it_is_remembered_for_a_while() -> None:
    silence = Silence(PATIENCE_SECONDS)
    silence.failed()
    silence.answered()
    assert silence.within(60)
    assert not silence.within(0)


async def test_one_answer_in_time_is_no_silence() -> None:
    silence = Silence(PATIENCE_SECONDS)
    with silence.waiting():
        await asyncio.sleep(0)
    silence.answered()
    await asyncio.sleep(2 * PATIENCE_SECONDS)
    assert not silence.within(60)
