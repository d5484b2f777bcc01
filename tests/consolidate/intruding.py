"""What another user of the machine can do with a port: as uid 65534, with every protocol and a certificate of its own.

Usage: python intruding.py PORT...; prints one line for each thing that a port let it do.
"""

import asyncio
import http.client
import os
import sys
from typing import Any

from distributed import Security, rpc

PAGES = ("/sitemap.json", "/", "/info/main/workers.html", "/json/counts.json", "/metrics", "/health", "/status")


async def ask(address: str, arguments: dict[str, Any]) -> None:
    """Ask a process of Dask who it is. Who is answered may as well ask it to run a function."""
    async with rpc(address, connection_args=arguments, timeout=5) as server:
        try:
            print(address, await asyncio.wait_for(server.identity(), 10), flush=True)
        except ValueError as error:
            if "IOStream is not idle" not in str(error):
                raise
            # tornado: the server has spoken before the handshake, so it does not speak TLS
            raise ConnectionRefusedError(address) from None


def browse(port: str) -> None:
    """Ask for pages."""
    for page in PAGES:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=3)
        connection.request("GET", page)
        if (answer := connection.getresponse()).status != http.client.NOT_FOUND:
            print(port, page, answer.status, flush=True)


async def main(ports: list[str]) -> None:
    """Try every port in every way."""
    own = Security.temporary().get_connection_args("client")
    ways = [
        way
        for port in ports
        for way in (
            ask(f"tcp://127.0.0.1:{port}", {}),
            ask(f"tls://127.0.0.1:{port}", own),
            asyncio.to_thread(browse, port),
        )
    ]
    for refusal in await asyncio.gather(*ways, return_exceptions=True):
        if refusal and not isinstance(refusal, OSError | http.client.HTTPException):
            raise refusal


if __name__ == "__main__":
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    asyncio.run(main(sys.argv[1:]))
    print("intruded as", os.getuid())
