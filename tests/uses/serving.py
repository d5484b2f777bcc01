"""Servers of cubes for tests: in a thread of this process, or as `embedcube serve` in a process of its own."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from embedcube.uses.serve.running import listen


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of an ASGI application that is served in a thread."""
    opened = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        opened.close()


@contextmanager
def spawned(*arguments: str | Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The address of `embedcube serve` with some arguments, and its process."""
    command = [sys.executable, "-m", "embedcube", "serve", *map(str, arguments), "--port", "0", "--json"]
    process = subprocess.Popen(
        command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read())
        yield json.loads(line)["address"], process
    finally:
        process.terminate()
        process.communicate(timeout=30)
