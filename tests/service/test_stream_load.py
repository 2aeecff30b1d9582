"""Hundreds of clients that come and go in every way: all slots are free, nobody hangs."""

import asyncio
import json
import random
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.fakes import FakeTranscriber, spoken
from tests.service.conftest import WAIT_S, Served, serving, sound, wait_until
from tests.service.live import at_rest, closed, s16, stream_settings, streamed

CYCLES = 500


async def come_and_go(url: str, number: int) -> None:
    """One client, which is killed at a place that its number chooses."""
    choose = random.Random(number)
    address = f"{url.replace('http', 'ws', 1)}/stream?model={('mha', 'mla')[number % 2]}"
    try:
        async with connect(address, compression=None, ping_interval=None, close_timeout=5) as client:
            await go(client, choose, number % 7)
    except (ConnectionClosed, OSError):
        pass


async def go(client: ClientConnection, choose: random.Random, way: int) -> None:
    profile = choose.choice(["balanced", "fast", "long"])
    if way == 0:
        return kill(client)  # before it has started
    await client.send(json.dumps({"type": "start", "profile": profile}))
    if way == 1:
        return kill(client)  # perhaps before it is ready
    await client.recv()
    wave = spoken("COME AND GO " * choose.randrange(1, 4))
    await client.send(s16(wave[: choose.randrange(len(wave))]))
    if way == 2:
        return kill(client)  # with chunks in the queue or on the device
    await client.send(json.dumps({"type": choose.choice(["flush", "end", "nonsense"]) if way < 6 else "end"}))
    if way == 3:
        return kill(client)
    if way == 4:
        await client.send(b"\x00" * 200_000)
        return kill(client, reset=True)
    async for _ in client:  # 5 and 6 wait for what comes, and leave as they should
        if way == 5:
            return None


def kill(client: ClientConnection, reset: bool = False) -> None:
    if reset:
        linger = struct.pack("ii", 1, 0)
        client.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.transport.abort()


def test_five_hundred_clients_come_and_go_and_every_slot_is_free() -> None:
    with serving(stream_settings(), {"mha": FakeTranscriber(), "mla": FakeTranscriber()}) as served:

        async def all_of_them() -> None:
            gate = asyncio.Semaphore(20)

            async def one(number: int) -> None:
                async with gate:
                    await asyncio.wait_for(come_and_go(served.url, number), WAIT_S)

            await asyncio.gather(*map(one, range(CYCLES)))

        asyncio.run(all_of_them())
        wait_until(lambda: at_rest(served), "every slot to be free")
        wait_until(lambda: closed(served) == CYCLES, "every client to be counted")
        assert served.metric("asr_streams_active") == 0
        assert served.service.engine.ready
        assert served.service.streams._steps.due() == float("inf")
        fill(served)


def fill(served: Served) -> None:
    """Every slot of a profile still works, all of them at once."""
    for lane, slots in served.service.engine.slots.items():
        with ThreadPoolExecutor(slots.total) as clients:
            said = [
                clients.submit(streamed, served.url, spoken("STILL HERE"), lane[0], profile=lane[1])
                for _ in range(slots.total)
            ]
            assert {client.result(WAIT_S).text for client in said} == {"still here"}


def test_streams_beside_clips_all_get_their_own(server: Served) -> None:
    """Tiny real models: what a stream says does not depend on what else the device does."""
    waves = [np.random.default_rng(seed).normal(0, 0.1, 24_000).astype(np.float32) for seed in range(6)]
    alone = [streamed(server.url, wave, "mla", profile="fast").text for wave in waves]
    with ThreadPoolExecutor(12) as clients:
        texts = [clients.submit(streamed, server.url, wave, "mla", profile="fast") for wave in waves]
        clips = [clients.submit(server.post, sound(16_000 + n), "mla") for n in range(6)]
        assert [client.result(WAIT_S).text for client in texts] == alone
        assert {clip.result(WAIT_S).status_code for clip in clips} == {200}
    assert len(set(alone)) == 6
