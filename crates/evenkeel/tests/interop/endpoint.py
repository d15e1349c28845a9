"""A WebSocket server of Python `websockets` on a port that the system picks. It tells its address, then one
record for each connection that ended, and after "stop" how many were still open.
"""

import asyncio
import urllib.parse

from traffic import Connection, say, taped, told_to_stop
from websockets.asyncio.server import ServerConnection, serve

OPEN = set()


async def handle(ws):
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(ws.request.path).query))
    connection = Connection(ws, query["label"], query["dribble"] == "1")
    OPEN.add(connection)
    talk = asyncio.create_task(connection.talk(lambda: False))
    try:
        await connection.listen()
        await talk
        await ws.wait_closed()
    except Exception as error:  # anything else is a defect, told to the driver
        connection.error = repr(error)
    OPEN.discard(connection)
    say({"record": connection.record()})


async def main():
    # The second choice of the client, so that a gateway which answers by itself is noticed.
    options = {"subprotocols": ["interop.v1"], "max_size": 4 << 20, "ping_interval": None}
    async with serve(handle, "127.0.0.1", 0, create_connection=taped(ServerConnection), **options) as server:
        host, port = server.sockets[0].getsockname()[:2]
        say({"listening": f"{host}:{port}"})
        await told_to_stop()
        say({"done": True, "open": len(OPEN)})


asyncio.run(main())
