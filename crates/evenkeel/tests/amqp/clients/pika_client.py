"""The client pika, in both its styles: callbacks on an I/O loop, and blocking calls.

Jobs run a thread a connection. Calls name a method of a blocking channel and answer with what it returns, so that the
driver can walk through a protocol step by step. Not here: any judgement.
"""

import sys
import threading
import time

import pika
from pika import exceptions

from traffic import Backlog, Job, commands, say

PERSISTENT = pika.BasicProperties(delivery_mode=2)
PUMP_EVERY = 0.003
PATIENCE = 30


def parameters(order):
    given = {key: order[key] for key in ("frame_max", "heartbeat") if order.get(key) is not None}
    return pika.ConnectionParameters(
        host="127.0.0.1", port=order["port"], virtual_host=order.get("vhost", "/"),
        credentials=pika.PlainCredentials(order.get("user", "guest"), order.get("password", "guest")), **given,
    )


class Looped(threading.Thread):
    """The jobs of one connection on pika's own I/O loop."""

    def __init__(self, jobs):
        super().__init__(daemon=True)
        self.jobs, self.left, self.opening = jobs, list(jobs), sum(job.channels for job in jobs)
        self.ready, self.connection, self.closing = threading.Event(), None, False

    def run(self):
        try:
            self.connection = pika.SelectConnection(
                parameters(self.jobs[0].__dict__), on_open_callback=self.opened,
                on_open_error_callback=lambda _, why: self.failed(f"open: {why!r}"),
                on_close_callback=lambda _, why: self.closed(why),
            )
            self.connection.add_on_connection_blocked_callback(lambda *_: self.complain("blocked"))
            self.connection.add_on_connection_unblocked_callback(lambda *_: self.complain("unblocked"))
            self.connection.ioloop.start()
        except Exception as error:  # whatever it is, it is a finding
            self.failed(repr(error))
        for job in self.jobs:
            job.tell()

    def complain(self, text):
        for job in self.jobs:
            job.problem(text)

    def failed(self, text):
        self.complain(text)
        self.ready.set()
        if self.connection is not None:
            self.connection.ioloop.stop()

    def closed(self, why):
        if not self.closing:
            self.complain(f"connection closed: {why!r}")
        self.ready.set()
        self.connection.ioloop.stop()

    def opened(self, connection):
        for job in self.jobs:
            for index in range(job.channels):
                connection.channel(on_open_callback=lambda channel, j=job, i=index: self.declare(j, i, channel))

    def declare(self, job, index, channel):
        def channel_closed(_, why):
            if not self.closing:
                job.problem(f"channel closed: {why!r}")

        channel.add_on_close_callback(channel_closed)
        channel.add_on_cancel_callback(lambda _: job.problem("consumer cancelled"))
        channel.add_on_return_callback(lambda *a: self.returned(job, a[3]))
        start = self.publish if job.role == "publish" else self.consume
        channel.queue_declare(job.queue, durable=True, arguments=job.arguments(),
                              callback=lambda _: start(job, index, channel))

    def begun(self):
        self.opening -= 1
        if self.opening == 0:
            self.ready.set()

    def publish(self, job, index, channel):
        unconfirmed, label = {}, job.label(index)
        job.confirms_seen[label] = []

        def confirmed(frame):
            method = frame.method
            what = "ack" if isinstance(method, pika.spec.Basic.Ack) else "nack"
            job.confirms_seen[label].append([method.delivery_tag, int(method.multiple)])
            tags = [t for t in sorted(unconfirmed) if t <= method.delivery_tag] if method.multiple else [method.delivery_tag]
            for tag in tags:
                job.outcome(label, unconfirmed.pop(tag, -1), what)

        def pump():
            if not channel.is_open:
                return
            while job.has_room():
                _, number, data = job.next_message(index)
                if job.confirms:
                    unconfirmed[number + 1] = number
                channel.basic_publish("", job.key or job.queue, data, PERSISTENT, job.mandatory)
                if job.channels > 1:
                    break  # so that the channels take turns
            if job.stopping and not unconfirmed:
                self.finished(job, channel)
            elif job.stopping and time.monotonic() > job.stopping + PATIENCE:
                job.problem(f"{len(unconfirmed)} messages of {label} were not confirmed in time")
                self.finished(job, channel)
            else:
                self.connection.ioloop.call_later(PUMP_EVERY, pump)

        def start(_=None):
            self.begun()
            pump()

        channel.confirm_delivery(confirmed, callback=start) if job.confirms else start()

    def returned(self, job, data):
        label, number, _ = data.split(b" ", 2)
        job.outcome(label.decode(), int(number), "return")

    def consume(self, job, _, channel):
        unsettled = []

        def message(_, deliver, __, data):
            job.took(data, deliver.redelivered)
            unsettled.append(deliver.delivery_tag)
            if job.ack == "single" or len(unsettled) >= max(1, job.prefetch // 2):
                settle()

        def settle():
            many = job.ripe(len(unsettled))
            ripe, unsettled[:] = unsettled[:many], unsettled[many:]
            for tag in ripe if job.ack == "single" else ripe[-1:]:
                channel.basic_ack(tag, multiple=job.ack == "multiple")

        def tick():
            if not channel.is_open:
                return
            settle()
            if job.stopping:
                self.finished(job, channel)
            else:
                self.connection.ioloop.call_later(0.005, tick)

        def begin(_=None):
            channel.basic_consume(job.queue, message, auto_ack=job.ack == "none", callback=lambda _: self.begun())
            tick()

        channel.basic_qos(prefetch_count=job.prefetch, callback=begin)

    def finished(self, job, channel):
        job.channels -= 1
        if job.channels == 0:
            self.left.remove(job)
        if not self.left:
            self.closing = True
            self.connection.close()


class Blocking(threading.Thread):
    """The jobs of one connection by blocking calls, one after the other in one thread, as most programs do."""

    def __init__(self, jobs):
        super().__init__(daemon=True)
        self.jobs, self.ready = jobs, threading.Event()

    def run(self):
        try:
            connection = pika.BlockingConnection(parameters(self.jobs[0].__dict__))
            connection.add_on_connection_blocked_callback(lambda *_: self.complain("blocked"))
            connection.add_on_connection_unblocked_callback(lambda *_: self.complain("unblocked"))
            turns = [getattr(self, job.role)(job, connection.channel()) for job in self.jobs]
            self.ready.set()
            while not all(job.stopping for job in self.jobs):
                for turn in turns:
                    turn()
                connection.process_data_events(time_limit=0.002)
            connection.close()
        except Exception as error:  # whatever it is, it is a finding
            self.complain(repr(error))
        self.ready.set()
        for job in self.jobs:
            job.tell()

    def complain(self, text):
        for job in self.jobs:
            job.problem(text)

    def publish(self, job, channel):
        channel.queue_declare(job.queue, durable=True, arguments=job.arguments())
        channel.confirm_delivery()

        def turn():
            for _ in range(job.outstanding):
                if not job.has_room():
                    return
                label, number, data = job.next_message(0)
                try:
                    channel.basic_publish("", job.key or job.queue, data, PERSISTENT, job.mandatory)
                    job.outcome(label, number, "ack")
                except exceptions.UnroutableError:
                    job.outcome(label, number, "return")
                    job.outcome(label, number, "ack")

        return turn

    def consume(self, job, channel):
        channel.queue_declare(job.queue, durable=True, arguments=job.arguments())
        channel.basic_qos(prefetch_count=job.prefetch)
        channel.add_on_cancel_callback(lambda _: job.problem("consumer cancelled"))

        def message(_, deliver, __, data):
            job.took(data, deliver.redelivered)
            if job.ripe(1):
                channel.basic_ack(deliver.delivery_tag)

        channel.basic_consume(job.queue, message, auto_ack=job.ack == "none")
        return lambda: None

    def rpc(self, job, channel):
        """Asks for something again and again, and counts the answers as messages consumed."""
        own = f"{job.queue}.rpc"
        channel.queue_declare(own, durable=True, arguments=job.arguments())
        calls = [
            lambda: channel.queue_declare(own, passive=True),
            lambda: channel.queue_declare(own, durable=True, arguments=job.arguments()),
            lambda: channel.queue_bind(own, "amq.topic", "a.#"),
            lambda: channel.basic_publish("amq.topic", "a.b", b"x", PERSISTENT),
            lambda: channel.basic_get(own, auto_ack=True),
            lambda: channel.queue_unbind(own, "amq.topic", "a.#"),
            lambda: channel.exchange_declare("amq.topic", passive=True),
            lambda: channel.basic_qos(prefetch_count=7),
            lambda: channel.queue_purge(own),
        ]

        def turn():
            for call in calls:
                call()
                job.counts.add(job.counts.consumed, job.queue)
                job.consumed.append([job.label(0), len(job.consumed), 0, 1])

        return turn


class Calls:
    """Blocking connections and channels of the driver's own, by name."""

    def __init__(self):
        self.connections, self.channels, self.taken, self.of = {}, {}, {}, {}

    def do(self, order):
        what = order["do"]
        if what == "connect":
            self.connections[order["connection"]] = pika.BlockingConnection(parameters(order))
        elif what == "channel":
            connection = self.connections[order["connection"]]
            channel, taken = connection.channel(order.get("number")), []
            channel.add_on_return_callback(lambda _, method, __, data: taken.append(
                {"return": data.decode("latin-1"), "code": method.reply_code}))
            channel.add_on_cancel_callback(lambda frame: taken.append({"cancel": frame.method.consumer_tag}))
            self.channels[order["channel"]], self.taken[order["channel"]] = channel, taken
            self.of[order["channel"]] = connection
        elif what == "take":
            return self.take(order)
        elif what == "disconnect":
            self.connections[order["connection"]].close()
        elif what == "secret":
            self.connections[order["connection"]].update_secret(order["secret"], "renewed")
        else:
            return self.call(order)
        return None

    def take(self, order):
        """What came until there is as much as was asked for, or until the time is over; it is handed out once."""
        taken, connection = self.taken[order["channel"]], self.of[order["channel"]]
        end = time.monotonic() + order.get("within", 10)
        while len(taken) < order["count"] and time.monotonic() < end:
            connection.process_data_events(time_limit=0.02)
        count = len(taken) if order.get("all") else order["count"]
        out, taken[:] = taken[:count], taken[count:]
        return out

    def call(self, order):
        channel, name, arguments = self.channels[order["channel"]], order["method"], order.get("with", {})
        if name == "basic_publish":
            properties = {"delivery_mode": 2} | arguments.pop("properties", {})
            arguments["properties"] = pika.BasicProperties(**properties)
            size = arguments.pop("size", 0)
            arguments["body"] = arguments["body"].encode("latin-1") + b"." * size
        if name == "basic_consume":
            taken = self.taken[order["channel"]]
            arguments["on_message_callback"] = lambda _, deliver, properties, data: taken.append(
                delivery(deliver, data) | {"reply_to": properties.reply_to})
        return plain(getattr(channel, name)(**arguments))


def delivery(deliver, data):
    return {"tag": deliver.delivery_tag, "redelivered": deliver.redelivered, "body": data[:200].decode("latin-1"),
            "length": len(data)}


def plain(result):
    """What a method returned, as JSON can say it."""
    if isinstance(result, tuple):  # basic_get
        return None if result[0] is None else delivery(result[0], result[2])
    method = getattr(result, "method", None)
    if method is not None:
        return {k: v for k, v in method.__dict__.items() if isinstance(v, (str, int, bool))}
    return result if isinstance(result, (str, int, bool)) else None


def failure(error):
    """The broker's code and text where it sent some."""
    return {"type": type(error).__name__, "code": getattr(error, "reply_code", 0),
            "text": getattr(error, "reply_text", "") or repr(error)}


def main():
    backlog, jobs, calls = Backlog(), {}, Calls()
    for order in commands():
        if order["do"] == "start":
            by_connection = {}
            for one in order["jobs"]:
                job = jobs[one["name"]] = Job(one, backlog)
                by_connection.setdefault(one.get("connection", one["name"]), []).append(job)
            threads = [(Blocking if jobs_[0].__dict__.get("blocking") else Looped)(jobs_) for jobs_ in by_connection.values()]
            for thread in threads:
                thread.start()
            ready = all([thread.ready.wait(PATIENCE) for thread in threads])
            failed = [problem for one in order["jobs"] for problem in jobs[one["name"]].problems]
            say({"id": order["id"], "result": ready and not failed})
        elif order["do"] == "stop":
            for name in order["jobs"]:
                jobs[name].stop(time.monotonic())
            say({"id": order["id"], "result": None})
        elif order["do"] == "count":
            say({"id": order["id"], "result": backlog.consumed})
        else:
            try:
                say({"id": order["id"], "result": calls.do(order)})
            except Exception as error:  # the driver judges it
                say({"id": order["id"], "error": failure(error)})


if __name__ == "__main__":
    main()
    sys.exit(0)
