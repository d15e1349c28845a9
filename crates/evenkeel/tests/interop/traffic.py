"""What both Python scripts share: numbered messages of every shape, the record of one connection, one-byte
writes. The library is `websockets`, which is not ours: a protocol error raises there.

Not here: any judgement. The Rust driver compares the records of the two ends of a connection.
"""

import asyncio
import hashlib
import json
import os
import random
import sys

from websockets.exceptions import ConnectionClosed

BLOCK = 4096  # bytes of the stream that share a hash
WORDS = ["level", "the", "keel", "Schiff", "größer", "海", "wind", "⛵", "over", "and"]
PROTOCOL_ERRORS = {1002, 1003, 1007, 1009, 1010, 1011}


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


class Tape:
    """The raw bytes of one direction after the handshake, as hashes of blocks, so that two ends compare."""

    def __init__(self):
        self.bytes, self.blocks, self.rest = 0, [], bytearray()
        self.end = b""  # the end of the last whole block
        self.head = b""  # what came so far of the HTTP head; None once it is complete

    def add(self, chunk):
        chunk = bytes(chunk)
        if self.head is not None:
            self.head += chunk
            _, found, chunk = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            self.head = None
        self.bytes += len(chunk)
        self.rest += chunk
        start = 0
        while len(self.rest) - start >= BLOCK:
            self.blocks.append(digest(self.rest[start : start + BLOCK]))
            self.end = bytes(self.rest[start : start + BLOCK][-64:])
            start += BLOCK
        del self.rest[:start]

    def report(self):
        end = (self.end + self.rest)[-64:]
        return {"bytes": self.bytes, "blocks": self.blocks, "rest": digest(self.rest), "end": end.hex()}


def taped(base):
    """A connection class of the library that keeps the raw bytes and can write one byte at a time."""

    class Taped(base):
        def connection_made(self, transport):
            self.tape_in, self.tape_out, self.dribble = Tape(), Tape(), False
            write = transport.write

            def record(data):
                self.tape_out.add(data)
                if not self.dribble:
                    return write(data)
                for i in range(len(data)):
                    write(data[i : i + 1])

            transport.write = record
            super().connection_made(transport)

        def data_received(self, data):
            self.tape_in.add(data)
            super().data_received(data)

    return Taped


def payload(number, text, slow):
    die = random.randrange(60 if slow else 80)
    if die == 0 and not slow:
        size = 1 << 20
    elif die < 3:
        size = 0
    elif die < 6:
        size = 125 + random.randrange(3)
    elif die < 9 and not slow:
        size = 65534 + random.randrange(4)
    else:
        size = random.randrange(300 if slow else 3000)
    if not text:
        return (f"{number}:".encode() + os.urandom(size))[:size]
    unit = " ".join(random.choice(WORDS) + str(random.randrange(1000)) for _ in range(12))
    data = (f"{number}:" + unit * (size // len(unit) + 1)).encode()[:size]
    return data.decode(errors="ignore").encode()  # text may end only between characters


class Connection:
    """Follows one connection from its opening; `record` says what happened once it is closed."""

    def __init__(self, ws, label, dribble):
        self.ws, self.label, self.slow = ws, label, dribble
        ws.dribble = dribble
        self.sent, self.received, self.in_doubt = [], [], None
        self.pings, self.pongs, self.error = 0, 0, None
        self.unfinished = False  # closed between two fragments of a message of its own

    async def listen(self):
        try:
            while True:
                message = await self.ws.recv()
                text = isinstance(message, str)
                data = message.encode() if text else message
                self.received.append(["t" if text else "b", len(data), digest(data)])
        except ConnectionClosed:
            pass

    async def talk(self, until):
        """Sends until the connection closes or `until()` says so."""
        number = 0
        try:
            while not until():
                await self.message(number)
                number += 1
                if random.randrange(3) == 0:
                    await asyncio.sleep((5 + random.randrange(60)) / 1000)
        except ConnectionClosed:
            pass

    async def message(self, number):
        text = random.randrange(2) == 0
        data = payload(number, text, self.slow)
        record = ["t" if text else "b", len(data), digest(data)]
        fragments = 2 + random.randrange(4) if random.randrange(3) == 0 else 1
        if fragments == 1:
            self.in_doubt = record
            await self.ws.send(data, text=text)
        else:
            self.unfinished = True
            await self.ws.send(self.parts(data, fragments, record), text=text)
            self.unfinished = False
        self.sent.append(record)
        self.in_doubt = None

    async def parts(self, data, fragments, record):
        step = -(-len(data) // fragments)
        for i in range(fragments):
            last = i == fragments - 1
            if last:
                self.in_doubt = record
            yield data[i * step :] if last else data[i * step : (i + 1) * step]
            if not last and random.randrange(2) == 0:
                pong = await self.ws.ping()
                pong.add_done_callback(self.count_pong)
                self.pings += 1
            if not last:
                await asyncio.sleep(random.randrange(8) / 1000)

    def count_pong(self, pong):
        if not pong.cancelled() and pong.exception() is None:
            self.pongs += 1

    def record(self):
        state = self.ws.protocol
        received, sent = state.close_rcvd, state.close_sent
        error = self.error
        if state.parser_exc is not None:
            error = repr(state.parser_exc)
        elif sent is not None and sent.code in PROTOCOL_ERRORS:
            error = f"sent Close {sent.code} {sent.reason}"
        return {
            "label": self.label,
            "library": "python websockets",
            "sent": self.sent,
            "in_doubt": self.in_doubt,
            "received": self.received,
            "pings": self.pings,
            "pongs": self.pongs,
            "code": received.code if received else 1006,
            "reason": received.reason if received else "",
            "clean": received is not None and sent is not None,
            "error": error,
            "unfinished": self.unfinished,
            "protocol": self.ws.subprotocol or "",
            "extensions": ", ".join(e.name for e in state.extensions),
            "out": self.ws.tape_out.report(),
            "in": self.ws.tape_in.report(),
        }


async def told_to_stop():
    """Returns when the driver writes a line or goes away."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.readline()
