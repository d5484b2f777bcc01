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
from embedcube.workers.protocol import RANKS_READY, START_TIMEOUT_S, Place


def broadcast_files(
    run: RunDir, plan: Plan, store: distributed.TCPStore, place: Place, device: torch.device
) -> dict[str, tuple[bytes, bytes]]:
    """For each layer its weights and its compiled program, broadcast to all ranks as DDP does its parameters.

    The process group is destroyed at the end: later no collective and no watchdog can make a rank wait for a dead one.

    Raises:
        WorkError: a file's SHA-256 is not the plan's, or the device has no memory for it.
        StartAgain: some rank did not come, or was lost.
    """
    try:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.world,
            timeout=timedelta(seconds=START_TIMEOUT_S),
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
        store.add(RANKS_READY, 1)
        distributed.destroy_process_group()
    except torch.cuda.OutOfMemoryError as error:
        raise WorkError(f"the weights do not fit into the device's memory: {str(error).splitlines()[0]}") from None
    except RuntimeError as error:
        raise StartAgain(f"a rank was lost before all were ready: {str(error).splitlines()[0]}") from None
    return files


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
