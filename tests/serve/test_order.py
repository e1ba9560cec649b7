"""In which order the requests of a stream run, and after which failures none does."""

import asyncio

import pytest

from bnlstm_deploy.errors import InputError, SequenceError
from bnlstm_deploy.serve import Chunk
from bnlstm_deploy.serve.order import Order

REFUSED = "was of sequence 5, or could not be read; send the sequence anew from its start"


def chunk(name=5, *, start=False):
    return Chunk(name, start, False)


async def take(order, of, error=None):
    async with order.turn(of):
        if error:
            raise error


def test_chunks_of_a_sequence_wait_for_each_other_and_for_no_others():
    async def stream():
        order, ran, go = Order(), [], asyncio.Event()

        async def run(name, of, *waits):
            async with order.turn(of):
                for event in waits:
                    await event.wait()
                ran.append(name)

        tasks = [
            asyncio.create_task(run("a0", chunk("a"), go)),
            asyncio.create_task(run("a1", chunk("a"))),
            asyncio.create_task(run("a2", chunk("a"))),
            asyncio.create_task(run("b0", chunk("b"))),
            asyncio.create_task(run("no sequence", None)),
        ]
        await asyncio.gather(*tasks[3:])
        assert ran == ["b0", "no sequence"]
        go.set()
        await asyncio.gather(*tasks)
        return ran

    assert asyncio.run(stream())[2:] == ["a0", "a1", "a2"]


@pytest.mark.parametrize("error", [InputError("bad"), asyncio.CancelledError()])
def test_what_follows_a_failure_fails_until_its_sequence_begins_anew(error):
    async def stream():
        order = Order()
        await take(order, chunk(start=True))
        with pytest.raises(type(error)):
            await take(order, chunk(), error)
        for _ in range(2):
            with pytest.raises(SequenceError, match=REFUSED):
                await take(order, chunk())
        await take(order, chunk(6))
        await take(order, chunk(start=True))
        await take(order, chunk())

    asyncio.run(stream())


def test_a_request_that_cannot_be_read_may_have_been_of_any_sequence():
    async def stream():
        order = Order()
        for name in (5, 6):
            await take(order, chunk(name, start=True))
        order.lose()
        with pytest.raises(SequenceError, match=REFUSED):
            await take(order, chunk())
        await take(order, None)
        await take(order, chunk(start=True))
        await take(order, chunk())
        with pytest.raises(SequenceError, match="was of sequence 6"):
            await take(order, chunk(6))
        order.lose()
        with pytest.raises(SequenceError, match=REFUSED):
            await take(order, chunk())

    asyncio.run(stream())


def test_what_was_read_before_the_request_that_could_not_be_read_runs():
    async def stream():
        order, go = Order(), asyncio.Event()

        async def first():
            async with order.turn(chunk(start=True)):
                await go.wait()

        waiting = [asyncio.create_task(first()), asyncio.create_task(take(order, chunk()))]
        await asyncio.sleep(0)
        order.lose()
        go.set()
        await asyncio.gather(*waiting)
        with pytest.raises(SequenceError, match=REFUSED):
            await take(order, chunk())

    asyncio.run(stream())
