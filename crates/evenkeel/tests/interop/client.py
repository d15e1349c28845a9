"""WebSocket clients of Python `websockets`, each of which comes back as soon as it was closed. Argument: JSON
`{"clients": [{"name", "url", "deflate": "off" | "takeover" | "no_takeover", "dribble"}]}`.
Prints one record for each connection that ended; after "stop" every client closes with 4000.
"""

import asyncio
import json
import random
import sys

from traffic import Connection, say, taped, told_to_stop
from websockets.asyncio.client import ClientConnection, connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

OWN_CODE = 4000
STOPPING = asyncio.Event()
OFFERS = {
    "off": None,
    "takeover": [ClientPerMessageDeflateFactory(client_max_window_bits=True)],
    "no_takeover": [
        ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
    ],
}


async def stay(client, number):
    label = f"{client['name']}/{number}"
    url = f"{client['url']}?label={label}&dribble={int(client['dribble'])}"
    options = {
        "subprotocols": ["interop.v2", "interop.v1"],
        "compression": None,
        "extensions": OFFERS[client["deflate"]],
        "max_size": 4 << 20,
        "ping_interval": None,
        "proxy": None,
        "create_connection": taped(ClientConnection),
    }
    try:
        ws = await connect(url, **options)
    except Exception as error:
        say({"refused": f"{label}: {error!r}"})
        await asyncio.sleep(0.05)
        return
    connection = Connection(ws, label, client["dribble"])
    # Now and then the client leaves by itself: that Close passes end to end.
    life = 20 if random.random() < 0.15 else float("inf")
    listen = asyncio.create_task(connection.listen())
    try:
        await connection.talk(lambda: STOPPING.is_set() or len(connection.sent) >= life)
        await ws.close(OWN_CODE, "enough")
        await listen
        await ws.wait_closed()
    except Exception as error:  # anything else is a defect, told to the driver
        connection.error = repr(error)
    say({"record": connection.record()})


async def run(client):
    number = 0
    while not STOPPING.is_set():
        await stay(client, number)
        number += 1


async def main():
    clients = json.loads(sys.argv[1])["clients"]
    runs = [asyncio.create_task(run(client)) for client in clients]
    await told_to_stop()
    STOPPING.set()
    await asyncio.gather(*runs)
    say({"done": True, "open": 0})


asyncio.run(main())
