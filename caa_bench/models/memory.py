"""Out of memory: recognize it in all its forms, and try again with fewer prompts a pass."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# What torch and its libraries say where they do not raise torch.OutOfMemoryError; compared in lower case.
_SAYINGS = (
    "out of memory",  # CUDA, HIP, XPU, MPS, and cudaErrorMemoryAllocation
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # DefaultCPUAllocator on other systems
    "std::bad_alloc",
    "cublas_status_alloc_failed",
    "cusolver_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_not_supported",  # what cuDNN says where its workspace does not fit
)


def out_of_memory(error: BaseException) -> bool:
    """Whether the machine ran out of memory, on whichever device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in _SAYINGS)


class PromptsPerPass:
    """How many prompts go through the model at once: halved whenever memory runs out, and not raised again.

    Args:
        size: to begin with, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, compute: Callable[[int], Result]) -> Result:
        """`compute(size)`, again with half the size for as long as it does not fit.

        Raises:
            Exception: whatever `compute` raises, out of memory included once a single prompt does not fit.
        """
        while True:
            try:
                return compute(self.size)
            except Exception as error:
                if self.size == 1 or not out_of_memory(error):
                    raise
            # Out here, because the error's traceback keeps the tensors alive that did not fit.
            self.size //= 2
            free_memory()


def free_memory() -> None:
    """Give back what is no longer used, on the GPU too if one is in use."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
