"""How much memory the tensors of a forward pass take at once, counted operator by operator."""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Context manager that counts the bytes of tensors that operators have made and that still exist.

    The count is the same in every run. It leaves out what a kernel allocates for itself, and operators inside of a
    compiled program.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        """Tensors that share memory with a `known` one (weights, chips) are not counted."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._users: Counter[int] = Counter()
        self._now: int = 0
        self.peak: int = 0
        """largest count so far, in bytes"""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch's default imports its compiler at the first operator: 1.4 s and 70 MB
        return False

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operator(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else (made,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self._known:
                self._hold(tensor)
        return made

    def _hold(self, tensor: Tensor) -> None:
        address, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        if not self._users[address]:
            self._now += size
            self.peak = max(self.peak, self._now)
        self._users[address] += 1
        weakref.finalize(tensor, self._release, address, size)

    def _release(self, address: int, size: int) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            self._now -= size
