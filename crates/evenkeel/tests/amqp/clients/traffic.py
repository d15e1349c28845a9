"""What the Python clients share: bodies that prove themselves, what a job has seen, the lines of the driver.

Not here: any judgement (the Rust driver compares), and any retry: an exception is written down and ends the job.
"""

import hashlib
import json
import os
import sys
import threading


MOUTH = threading.Lock()


def say(value):
    line = json.dumps(value) + "\n"
    with MOUTH:
        sys.stdout.write(line)
        sys.stdout.flush()


def digest(data):
    return hashlib.sha1(data).hexdigest()[:16]


def body(publisher, number, size):
    """Who sent it as which, the digest of the rest, the rest."""
    rest = os.urandom(size)
    return f"{publisher} {number} {digest(rest)}\n".encode() + rest


def read(data):
    """Publisher, number, and whether the rest is what was sent."""
    head, _, rest = bytes(data).partition(b"\n")
    publisher, number, want = head.decode().split(" ")
    return publisher, int(number), digest(rest) == want


class Backlog:
    """Messages of each queue that were published here and not acknowledged here: publishers keep it bounded, and
    consumers keep it above a bound, so that their prefetch stays full."""

    def __init__(self):
        self.lock, self.published, self.consumed, self.settled = threading.Lock(), {}, {}, {}
        self.arrived = {}  # confirmed, or published where nobody asks for confirms
        self.ending = set()  # queues to which nobody publishes any more

    def add(self, counts, queue, many=1):
        with self.lock:
            counts[queue] = counts.get(queue, 0) + many

    def of(self, queue):
        return self.published.get(queue, 0) - self.settled.get(queue, 0)


class Job:
    """One publisher or consumer: what it is to do, and what it has seen."""

    def __init__(self, order, backlog):
        self.__dict__.update(
            {"confirms": True, "outstanding": 20, "backlog": 0, "fill": 0, "sizes": [64], "channels": 1, "mandatory": False,
             "prefetch": 20, "ack": "single", "type": "classic", "key": None, "limit": 0} | order
        )
        self.counts = backlog
        self.stopping = False
        self.sent, self.outcomes, self.confirms_seen, self.consumed, self.problems = {}, [], {}, [], []
        self.waiting = 0  # published and not confirmed

    def arguments(self):
        return {"x-queue-type": self.type}

    def label(self, channel):
        return f"{self.name}.{channel}"

    def stop(self, now):
        self.stopping = now
        if self.role == "publish":
            self.counts.ending.add(self.queue)

    def has_room(self):
        if self.stopping or (self.limit and sum(self.sent.values()) >= self.limit):
            return False
        within = self.backlog == 0 or self.counts.of(self.queue) < self.backlog
        return within and (not self.confirms or self.waiting < self.outstanding)

    def next_message(self, channel):
        label = self.label(channel)
        number = self.sent.get(label, 0)
        self.sent[label] = number + 1
        self.counts.add(self.counts.published, self.queue)
        if self.confirms:
            self.waiting += 1
        else:
            self.counts.add(self.counts.arrived, self.queue)
        return label, number, body(label, number, self.sizes[number % len(self.sizes)])

    def outcome(self, label, number, what):
        self.outcomes.append([label, number, what])
        if what != "return":
            self.waiting -= 1
            self.counts.add(self.counts.arrived, self.queue)

    def took(self, data, redelivered):
        label, number, good = read(data)
        self.consumed.append([label, number, int(redelivered), int(good)])
        self.counts.add(self.counts.consumed, self.queue)
        if self.ack == "none":
            self.counts.add(self.counts.settled, self.queue)

    def ripe(self, unsettled):
        """How many of so many unacknowledged messages may be acknowledged now; they then count as that."""
        many = 0 if self.ack == "none" else unsettled
        if self.fill and self.queue not in self.counts.ending:
            counts = self.counts
            ready = counts.arrived.get(self.queue, 0) - counts.settled.get(self.queue, 0)
            many = max(0, min(many, ready - self.fill))
        self.counts.add(self.counts.settled, self.queue, many)
        return many

    def problem(self, text):
        self.problems.append(str(text))

    def tell(self):
        record = {"name": self.name, "role": self.role, "queue": self.queue, "problems": self.problems}
        if self.role == "publish":
            record |= {"sent": self.sent, "confirmed": self.confirms, "outcomes": self.outcomes, "confirms": self.confirms_seen}
        else:
            record |= {"consumed": self.consumed}
        say({"record": record})


def commands():
    """The driver's lines, until it goes away."""
    for line in sys.stdin:
        yield json.loads(line)
