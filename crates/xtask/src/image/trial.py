# Plays client, backend and name server around the gateway, which runs in a root of its own; exits 0 when all works.
# Arguments: a folder to work in, the image's root, user:group, and the image's command.
import asyncio
import json
import os
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import urllib.request

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

FOLDER, ROOTFS, USER, *COMMAND = sys.argv[1:]
CHROOT = shutil.which("chroot")
# Of the loopback network, and nobody else's: resolv.conf can name an address, but no port.
NAME_SERVER = "127.53.0.1"
NAME = "echo.image.test"
SIZES = [0, 1, 125, 126, 65535, 65536, 1 << 20]


class Names(asyncio.DatagramProtocol):
    """Answers questions of type A for NAME with 127.0.0.1, all others with nothing."""

    def connection_made(self, transport):
        self.transport = transport
        self.asked = 0

    def datagram_received(self, data, peer):
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode().lower())
            at += 1 + data[at]
        question = data[12 : at + 5]
        (kind,) = struct.unpack("!H", data[at + 1 : at + 3])
        is_known = ".".join(labels) == NAME
        has_answer = is_known and kind == 1
        self.asked += is_known
        # Response, recursion available; NXDOMAIN for any other name.
        head = struct.pack("!2sHHHHH", data[:2], 0x8180 if is_known else 0x8183, 1, has_answer, 0, 0)
        record = struct.pack("!HHHIH4B", 0xC00C, 1, 1, 5, 4, 127, 0, 0, 1) if has_answer else b""
        self.transport.sendto(head + question + record, peer)


def lay_out(port):
    """The root of a container: the image, and what a node mounts into it. Nothing there belongs to the user."""
    root = os.path.join(FOLDER, "run")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(ROOTFS, root)
    etc = os.path.join(root, "etc/evenkeel")
    os.makedirs(etc)
    with open(os.path.join(root, "etc/resolv.conf"), "w") as file:
        file.write(f"nameserver {NAME_SERVER}\nsearch image.test\noptions ndots:5 timeout:2\n")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-keyout", f"{etc}/tls.key", "-out", f"{etc}/tls.crt", "-subj", "/CN=image"]
        + ["-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )
    os.chown(f"{etc}/tls.key", int(USER.split(":")[0]), 0)
    os.chmod(f"{etc}/tls.key", 0o400)
    config = {
        "listeners": [{"address": "127.0.0.1:0", "tls": {"certificate": "tls.crt", "key": "tls.key"}}],
        "admin": {"address": "127.0.0.1:0"},
        "log": {"format": "json"},
        "shutdown": {"grace": "3s", "propagation": "0s"},
        "routes": [{"pool": "echo"}],
        # Relative: the search list of resolv.conf is part of it.
        "pools": {"echo": {"dns": {"name": "echo", "port": port}}},
    }
    with open(f"{etc}/evenkeel.yaml", "w") as file:
        json.dump(config, file)
    return root, f"{etc}/tls.crt"


async def addresses(gateway):
    """What the log of the gateway says it listens on."""
    while line := await gateway.stderr.readline():
        print(line.decode().rstrip())
        if not line.startswith(b"{"):
            raise SystemExit("that is no line of its log")
        fields = json.loads(line)["fields"]
        if fields.get("message") == "gateway is up":
            return fields["listeners"].strip("[]"), fields["admin"]
    raise SystemExit(f"the gateway ended with {await gateway.wait()}")


def fetch(admin, path):
    with urllib.request.urlopen(f"http://{admin}{path}", timeout=5) as answer:
        return answer.read().decode()


async def has_endpoint(admin):
    """Until the name is resolved."""
    for _ in range(200):
        status = json.loads(await asyncio.to_thread(fetch, admin, "/api/v1/status"))
        if any(endpoint["state"] == "ready" for endpoint in status["pools"]["echo"]["endpoints"]):
            return
        await asyncio.sleep(0.05)
    raise SystemExit("the gateway did not find its endpoint by DNS")


async def echo(listener, certificate):
    trusted = ssl.create_default_context(cafile=certificate)
    async with connect(f"wss://{listener}/", ssl=trusted, compression=None, max_size=None) as client:
        for size in SIZES:
            for message in ("x" * size, os.urandom(size)):
                await client.send(message)
                if await client.recv() != message:
                    raise SystemExit(f"{size} bytes came back changed")


def judge_process(pid, root):
    with open(f"/proc/{pid}/status") as file:
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    user, group = USER.split(":")
    if set(status["Uid"].split()) != {user} or set(status["Gid"].split()) != {group}:
        raise SystemExit(f"it runs as {status['Uid']}, {status['Gid']}; expected {USER}")
    if os.readlink(f"/proc/{pid}/root") != root:
        raise SystemExit(f"its root is {os.readlink(f'/proc/{pid}/root')}, expected {root}")
    print(f"resident: {status['VmRSS']}, threads: {status['Threads']}")


async def main():
    async def backend(session):
        async for message in session:
            await session.send(message)

    loop = asyncio.get_running_loop()
    _, names = await loop.create_datagram_endpoint(Names, (NAME_SERVER, 53))
    async with serve(backend, "127.0.0.1", 0, compression=None, max_size=None) as server:
        root, certificate = lay_out(server.sockets[0].getsockname()[1])
        gateway = await asyncio.create_subprocess_exec(
            *[CHROOT, f"--userspec={USER}", root, *COMMAND], env={}, cwd="/", stderr=subprocess.PIPE
        )
        try:
            listener, admin = await addresses(gateway)
            await has_endpoint(admin)
            await echo(listener, certificate)
            judge_process(gateway.pid, os.path.realpath(root))
            if "evenkeel_sessions_total" not in await asyncio.to_thread(fetch, admin, "/metrics"):
                raise SystemExit("/metrics knows of no session")
            gateway.send_signal(signal.SIGTERM)
            rest = await gateway.stderr.read()
            if code := await gateway.wait():
                raise SystemExit(f"it ended with {code} after SIGTERM: {rest.decode()}")
        finally:
            if gateway.returncode is None:
                gateway.kill()
                await gateway.wait()
    print(f"TLS, {names.asked} questions to DNS, {2 * len(SIZES)} messages there and back, exit 0")


asyncio.run(main())
