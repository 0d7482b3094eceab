"""A peer of the older program's generation, on iroh's own Python bindings.

    peer.py fetch ID ADDR:PORT HASH OUT   asks for a narinfo and its NAR under each pair of names
    peer.py serve NARINFO NAR             answers with these files, one stream a connection

Nothing leaves the machine: no relay, no DNS, loopback only.
"""

import asyncio
import sys

import iroh

NAMES = [
    (b"peerix/narinfo/1", b"peerix/nar/1"),
    (b"/peerix/narinfo/1.0.0", b"/peerix/nar/1.0.0"),
]
PATIENCE = 60


async def bind(alpns):
    builder = iroh.EndpointBuilder()
    builder.apply_minimal()
    builder.relay_mode(iroh.RelayMode.disabled())
    builder.bind_addr("127.0.0.1:0")
    builder.alpns(alpns)
    return await builder.bind()


async def ask(endpoint, peer, alpn, question):
    """A connection of its own for each question, as the older program has it."""
    connection = await endpoint.connect(peer, alpn)
    stream = await connection.open_bi()
    send = stream.send()
    await send.write_all(question)
    await send.finish()
    return connection, stream.recv()


async def fetch(peer_id, address, path_hash, out):
    endpoint = await bind([])
    peer = iroh.EndpointAddr(iroh.EndpointId.from_string(peer_id), None, [address])
    for number, (narinfo_alpn, nar_alpn) in enumerate(NAMES):
        connection, recv = await ask(endpoint, peer, narinfo_alpn, path_hash.encode())
        # Whoever answers must wait for whoever is slow to read.
        await asyncio.sleep(0.2)
        narinfo = await recv.read_to_end(65536)
        connection.close(0, b"")
        with open(f"{out}.narinfo{number}", "wb") as file:
            file.write(narinfo)
        if narinfo == b"NOTFOUND":
            continue
        fields = dict(line.split(": ", 1) for line in narinfo.decode().splitlines())
        connection, recv = await ask(endpoint, peer, nar_alpn, fields["URL"].encode())
        left = int.from_bytes(await recv.read_exact(8), "big")
        with open(f"{out}.nar{number}", "wb") as file:
            while left:
                part = await recv.read(min(left, 1 << 20))
                if not part:
                    raise EOFError(f"{left} bytes are missing")
                file.write(part)
                left -= len(part)
        connection.close(0, b"")
    await endpoint.close()


async def answer(incoming, narinfo, nar):
    accepting = await incoming.accept()
    connection = await accepting.connect()
    stream = await connection.accept_bi()
    question = (await stream.recv().read_to_end(1024)).decode().strip()
    send = stream.send()
    fields = dict(line.split(": ", 1) for line in narinfo.decode().splitlines())
    if connection.alpn() == NAMES[0][0]:
        known = fields["StorePath"].startswith(f"/nix/store/{question}-")
        await send.write_all(narinfo if known else b"NOTFOUND")
    elif question == fields["URL"]:
        await send.write_all(len(nar).to_bytes(8, "big"))
        for start in range(0, len(nar), 16384):
            await send.write_all(nar[start : start + 16384])
    await send.finish()
    try:
        await asyncio.wait_for(connection.closed(), 5)
    except asyncio.TimeoutError:
        pass


async def serve(narinfo_file, nar_file):
    with open(narinfo_file, "rb") as file:
        narinfo = file.read()
    with open(nar_file, "rb") as file:
        nar = file.read()
    endpoint = await bind(list(NAMES[0]))
    address = next(a for a in endpoint.bound_sockets() if a.startswith("127."))
    print(f"{endpoint.id()}@{address}", flush=True)
    tasks = set()
    while incoming := await endpoint.accept_next():
        task = asyncio.create_task(answer(incoming, narinfo, nar))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "fetch":
        asyncio.run(asyncio.wait_for(fetch(*arguments), PATIENCE))
    else:
        asyncio.run(serve(*arguments))
