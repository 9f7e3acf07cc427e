"""How a process that computes holds on to the memory that it frees."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process reuse the pages of freed tensors; elsewhere than under glibc, nothing.

    By default glibc hands blocks above 32 MiB back to the kernel and asks for them again, page by
    page: a third of the time of a product with the ResNet's Hessian. The process stays as large as
    it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**26)
