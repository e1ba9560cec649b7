"""Workers that ask each other."""

import asyncio

import pytest

from bnlstm_deploy.serve.peers import _Line

MORE_THAN_A_SOCKET_TAKES = bytes(50_000_000)


def test_nothing_is_kept_of_who_leaves_while_asking(tmp_path):
    async def leave():
        connected, done = asyncio.Event(), asyncio.Event()

        async def never_read(reader, writer):
            del reader
            connected.set()
            await done.wait()
            writer.close()

        path = tmp_path / "worker"
        server = await asyncio.start_unix_server(never_read, path, limit=1)
        line = _Line(path)
        asking = asyncio.create_task(line.ask("infer", MORE_THAN_A_SOCKET_TAKES))
        await connected.wait()
        while not line._waiting:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not line._waiting
        line.close()
        done.set()
        server.close()

    asyncio.run(leave())
