"""The weights and compiled programs that all ranks of a task must have alike: one reads them, all compare."""

from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from embedcube.campaign.plan import Plan
from embedcube.campaign.run_folder import RunDir
from embedcube.errors import StartAgain, WorkError
from embedcube.workers.protocol import MEETING_S, MET


def broadcast_files(
    run: RunDir, plan: Plan, store: distributed.TCPStore, number: int, world: int, device: torch.device
) -> dict[str, tuple[bytes, bytes]]:
    """Weights and compiled program of each layer, broadcast to `world` ranks as DDP does its parameters.

    After this no collective and no watchdog can hang the living on the dead: the process group is destroyed.

    Raises:
        WorkError: a file's SHA-256 is not the plan's, or the device has no memory for it.
        StartAgain: not all ranks came.
    """
    try:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=number,
            world_size=world,
            timeout=timedelta(seconds=MEETING_S),
            device_id=device if device.type == "cuda" else None,
        )
        agreed = {}
        for name, layer in plan.layers.items():
            weights, program = _broadcast(run.weights(name), layer.weights, number, device), b""
            if layer.program:
                path = run.program(name, layer.compiled_for, layer.program)
                program = _broadcast(path, layer.program, number, device)
            agreed[name] = weights, program
        distributed.barrier()
        store.add(MET, 1)
        distributed.destroy_process_group()
    except torch.cuda.OutOfMemoryError as error:
        raise WorkError(f"the weights do not fit into the device's memory: {str(error).splitlines()[0]}") from None
    except RuntimeError as error:
        raise StartAgain(f"the ranks did not meet: {str(error).splitlines()[0]}") from None
    return agreed


def _broadcast(path: Path, digest: str, number: int, device: torch.device) -> bytes:
    """The bytes of a file, which rank 0 reads; all ranks refuse them when their digest is not the plan's."""
    data = path.read_bytes() if number == 0 else b""
    length = torch.tensor([len(data)], device=device)
    distributed.broadcast(length, 0)
    body = torch.from_numpy(np.frombuffer(data or bytes(int(length)), dtype=np.uint8).copy()).to(device)
    distributed.broadcast(body, 0)
    data = body.cpu().numpy().tobytes()
    if (found := sha256(data).hexdigest()) != digest:
        raise WorkError(f"{path}: its SHA-256 is {found}, the plan was made with {digest}: restore it, or plan again")
    return data
