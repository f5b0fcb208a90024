import asyncio

import pytest

from bitbylaw_common.deadlines import Deadlines


async def test_what_takes_too_long_ends_with_a_time_out() -> None:
    deadlines = Deadlines(0.02)
    with pytest.raises(TimeoutError), deadlines.limit():
        await asyncio.Event().wait()


async def test_what_ends_in_time_is_left_alone_and_the_next_has_its_own_time() -> None:
    deadlines = Deadlines(1)
    for _ in range(4):
        with deadlines.limit():
            await asyncio.sleep(0.3)


async def test_many_wait_at_once_and_each_is_judged_by_itself() -> None:
    deadlines = Deadlines(1)
    never = asyncio.Event()
    ended: list[tuple[int, str]] = []

    async def wait(number: int) -> None:
        try:
            with deadlines.limit():
                await (asyncio.sleep(0) if number % 3 else never.wait())
            ended.append((number, "in time"))
        except TimeoutError:
            ended.append((number, "late"))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(wait(number))
    assert sorted(ended) == [(n, "in time" if n % 3 else "late") for n in range(300)]
    assert [n for n, how in ended if how == "late"] == list(range(0, 300, 3)), "first come"


async def test_a_cancellation_from_outside_stays_one() -> None:
    deadlines = Deadlines(5)
    entered = asyncio.Event()

    async def wait() -> None:
        with deadlines.limit():
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_beside_the_time_out_is_not_swallowed() -> None:
    deadlines = Deadlines(0.02)

    async def wait() -> None:
        try:
            with deadlines.limit():
                await asyncio.Event().wait()
        finally:
            told.append(asyncio.current_task())

    told: list[object] = []
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    # both before the task has its next turn
    deadlines._open[0].expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == [task]


async def test_an_error_in_the_block_comes_through() -> None:
    deadlines = Deadlines(5)
    with pytest.raises(ValueError, match="as it is"), deadlines.limit():
        raise ValueError("as it is")


async def test_outside_of_a_task_it_says_so() -> None:
    said: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def callback() -> None:
        try:
            Deadlines(1).limit()
        except RuntimeError as error:
            said.set_result(str(error))

    asyncio.get_running_loop().call_soon(callback)
    assert "within a task" in await asyncio.wait_for(said, 5)
