"""The weights and compiled programs that all ranks of a task must have alike: rank 0 reads, all compare digests."""

from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from embedcube.campaign.plan import Plan
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import StartAgain, WorkError
from embedcube.workers.channel import Channel, Lost
from embedcube.workers.failures import no_memory
from embedcube.workers.parents import listening
from embedcube.workers.protocol import MEET, READY, START_TIMEOUT_S, WHERE, Place
from embedcube.workers.rendezvous import own_host

_TIMEOUT = timedelta(seconds=START_TIMEOUT_S)


def broadcast_files(
    run: RunDir, plan: Plan, parent: Channel, place: Place, device: torch.device
) -> dict[str, tuple[bytes, bytes]]:
    """For each layer its weights and its compiled program, broadcast to all ranks as DDP does its parameters.

    The process group is destroyed at the end: later no collective and no watchdog can make a rank wait for a dead one.
    Then all ranks wait for each other once more, so that none needs the store when it is gone.

    Raises:
        WorkError: a file's SHA-256 is not the plan's, or there is no memory for it.
        StartAgain: some rank did not come, or was lost.
    """
    try:
        store = _store(parent, place)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.world,
            timeout=_TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )
        files = {}
        for name, layer in plan.layers.items():
            weights, program = _broadcast(run.weights(name), layer.weights, place.rank, device), b""
            if layer.program:
                path = run.program(name, layer.compiled_for, layer.program)
                program = _broadcast(path, layer.program, place.rank, device)
            files[name] = weights, program
        distributed.barrier()
        distributed.destroy_process_group()
        parent.ask(READY, place.rank, timeout_s=START_TIMEOUT_S)
    except (RuntimeError, MemoryError, Lost) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if no_memory(error):
            raise WorkError(f"the weights do not fit into the memory of {device}: {reason}") from None
        raise StartAgain(f"a rank was lost before all were ready: {reason}") from None
    return files


def _store(parent: Channel, place: Place) -> distributed.Store:
    """Where the ranks find each other: a file of this node, or between nodes a TCPStore of rank 0.

    A TCPStore has no secret: it listens on the site's interface alone, and only until the weights are handed out.
    """
    if place.store:
        found: distributed.Store = distributed.FileStore(place.store, place.world)
        found.set_timeout(_TIMEOUT)
        return found
    if place.rank == 0:
        listener = listening(own_host())
        host, port = listener.getsockname()[:2]
        # the store takes the socket over, and closes it
        found = distributed.TCPStore(
            host, port, is_master=True, timeout=_TIMEOUT, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        parent.ask(MEET, f"{host} {port}")
        return found
    host, port = parent.ask(WHERE, timeout_s=START_TIMEOUT_S).split()
    return distributed.TCPStore(host, int(port), is_master=False, timeout=_TIMEOUT)


def _broadcast(path: Path, digest: str, rank: int, device: torch.device) -> bytes:
    """The bytes of a file, which rank 0 reads; every rank refuses them when their digest is not the plan's."""
    data = path.read_bytes() if rank == 0 else b""
    length = torch.tensor([len(data)], device=device)
    distributed.broadcast(length, 0)
    body = torch.from_numpy(np.frombuffer(data or bytes(int(length)), dtype=np.uint8).copy()).to(device)
    distributed.broadcast(body, 0)
    data = body.cpu().numpy().tobytes()
    if (received := sha256(data).hexdigest()) != digest:
        raise WorkError(
            f"{path}: its SHA-256 is {received}, the plan was made with {digest}: restore the file, or plan again"
        )
    return data
