"""Which ports the processes of a tree listen on, as the kernel says in /proc/net (proc(5))."""

import socket
import struct
from contextlib import suppress
from pathlib import Path

import psutil

LISTEN = "0A"


def listening(pid: int) -> list[tuple[str, int]]:
    """Address and port of each TCP socket on which the process or one of its descendants listens."""
    inodes = set()
    for process in _tree(pid):
        with suppress(OSError):
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    inodes.add(str(descriptor.readlink()))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == LISTEN and f"socket:[{columns[9]}]" in inodes:
                address, _, port = columns[1].partition(":")
                found.append((_readable(address), int(port, 16)))
    return found


def _tree(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _readable(address: str) -> str:
    """The kernel writes the four bytes of each word in the order of the machine."""
    words = [address[i : i + 8] for i in range(0, len(address), 8)]
    packed = b"".join(struct.pack("=I", int(word, 16)) for word in words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
