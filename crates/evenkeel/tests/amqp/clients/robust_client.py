"""Many connections of aio-pika with its automatic reconnect, each of which publishes with confirms: how long is it cut off?

The first line says what to do, at the second it begins to count, the third ends it; the answer has, of each connection, its longest time between two confirms, and
the publishes that failed. Not here: any judgement.
"""

import asyncio
import json
import sys
import time

import aio_pika

from traffic import say


class Publisher:
    def __init__(self, order):
        self.order = order
        self.begin()

    def begin(self):
        self.failures, self.longest, self.confirmed, self.last = [], 0.0, 0, time.monotonic()

    async def start(self, gate):
        async with gate:
            self.link = await aio_pika.connect_robust(
                host="127.0.0.1", port=self.order["port"], login="guest", password="guest",
                virtualhost=self.order["vhost"],
            )
            self.channel = await self.link.channel(publisher_confirms=True)
        self.task = asyncio.create_task(self.publish())

    async def publish(self):
        while True:
            try:
                message = aio_pika.Message(b"x" * 64)
                await asyncio.wait_for(self.channel.default_exchange.publish(message, "herd"), 30)
                now = time.monotonic()
                self.longest, self.last = max(self.longest, now - self.last), now
                self.confirmed += 1
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self.failures.append(repr(error))
            await asyncio.sleep(self.order["every"])

    async def stop(self):
        self.task.cancel()
        try:
            await asyncio.wait_for(self.link.close(), 10)
        except Exception:
            pass


async def main():
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = json.loads(await reader.readline())
    publishers = [Publisher(order) for _ in range(order["connections"])]
    gate = asyncio.Semaphore(20)
    await asyncio.gather(*[publisher.start(gate) for publisher in publishers])
    say({"id": 0, "result": "ready"})
    await reader.readline()
    early = [failure for publisher in publishers for failure in publisher.failures]
    for publisher in publishers:
        publisher.begin()
    await reader.readline()
    for publisher in publishers:
        publisher.task.cancel()
    say({"id": 1, "result": {
        "longest": [round(publisher.longest, 3) for publisher in publishers],
        "failed": sum(len(publisher.failures) for publisher in publishers),
        "early": early,
        "failures": sorted({failure for publisher in publishers for failure in publisher.failures}),
        "confirmed": sum(publisher.confirmed for publisher in publishers),
    }})
    await asyncio.gather(*[publisher.stop() for publisher in publishers])


if __name__ == "__main__":
    asyncio.run(main())
