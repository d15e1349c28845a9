"""The client aio-pika, without its automatic reconnect: jobs on one event loop, a connection a job or shared.

Not here: any judgement.
"""

import asyncio
import json
import sys
import time

import aio_pika

from traffic import Backlog, Job, say

PATIENCE = 30


class Connection:
    """One connection and the jobs on it."""

    def __init__(self, jobs):
        self.jobs, self.closing, self.open = jobs, False, 0

    def closed(self, _, why=None):
        if not self.closing:
            self.complain(f"connection closed: {why!r}")

    def complain(self, text):
        for job in self.jobs:
            job.problem(text)

    async def start(self):
        order = self.jobs[0].__dict__
        query = {key: order[key] for key in ("frame_max", "heartbeat") if order.get(key) is not None}
        try:
            self.link = await aio_pika.connect(
                host="127.0.0.1", port=order["port"], login="guest", password="guest",
                virtualhost=order.get("vhost", "/"), **query,
            )
            self.link.close_callbacks.add(self.closed)
            for job in self.jobs:
                await (self.publisher(job) if job.role == "publish" else self.consumer(job))
        except Exception as error:  # whatever it is, it is a finding
            self.complain(repr(error))
            for job in self.jobs:
                job.tell()
            return False
        return True

    async def channel(self, job):
        channel = await self.link.channel(publisher_confirms=job.confirms)

        def closed(_, why=None):
            if not self.closing and not job.stopping:
                job.problem(f"channel closed: {why!r}")

        channel.close_callbacks.add(closed)
        await channel.declare_queue(job.queue, durable=True, arguments=job.arguments())
        return channel

    async def publisher(self, job):
        channels = [await self.channel(job) for _ in range(job.channels)]
        self.open += 1
        self.background(job, self.publish(job, channels))

    def background(self, job, work):
        async def run():
            try:
                await work
            except Exception as error:
                job.problem(repr(error))
            self.open -= 1
            if self.open == 0:
                self.closing = True
                try:
                    await asyncio.wait_for(self.link.close(), PATIENCE)
                except Exception as error:
                    self.complain(f"close: {error!r}")
                for job_ in self.jobs:
                    job_.tell()

        job.task = asyncio.create_task(run())

    async def publish(self, job, channels):
        under_way, turn = set(), 0
        while not job.stopping:
            if not job.has_room():
                await asyncio.sleep(0.002)
                continue
            turn = (turn + 1) % len(channels)
            label, number, data = job.next_message(turn)
            task = asyncio.create_task(self.send(job, channels[turn], label, number, data))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(0)
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=PATIENCE)
            if late:
                job.problem(f"{len(late)} messages were not confirmed in time")

    async def send(self, job, channel, label, number, data):
        message = aio_pika.Message(data, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        try:
            await channel.default_exchange.publish(message, job.key or job.queue, mandatory=job.mandatory)
            if job.confirms:
                job.outcome(label, number, "ack")
        except Exception as error:
            job.problem(f"publish {label} {number}: {error!r}")

    async def consumer(self, job):
        channel = await self.channel(job)
        await channel.set_qos(prefetch_count=job.prefetch)
        queue = await channel.get_queue(job.queue, ensure=False)
        unsettled = []

        async def message(incoming):
            try:
                job.took(incoming.body, incoming.redelivered)
                unsettled.append(incoming)
                if job.ack == "single" or len(unsettled) >= max(1, job.prefetch // 2):
                    await settle()
            except Exception as error:
                job.problem(repr(error))

        async def settle():
            many = job.ripe(len(unsettled))
            ripe, unsettled[:] = unsettled[:many], unsettled[many:]
            for incoming in ripe if job.ack == "single" else ripe[-1:]:
                await incoming.ack(multiple=job.ack == "multiple")

        async def until_stopped():
            while not job.stopping:
                await asyncio.sleep(0.005)
                await settle()
            await queue.cancel(tag)

        tag = await queue.consume(message, no_ack=job.ack == "none")
        self.open += 1
        self.background(job, until_stopped())


async def main():
    backlog, jobs = Backlog(), {}
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        result = None
        if order["do"] == "start":
            by_connection = {}
            for one in order["jobs"]:
                job = jobs[one["name"]] = Job(one, backlog)
                by_connection.setdefault(one.get("connection", one["name"]), []).append(job)
            result = all(await asyncio.gather(*[Connection(group).start() for group in by_connection.values()]))
        elif order["do"] == "stop":
            for name in order["jobs"]:
                jobs[name].stop(time.monotonic())
        elif order["do"] == "count":
            result = backlog.consumed
        say({"id": order["id"], "result": result})


if __name__ == "__main__":
    asyncio.run(main())
