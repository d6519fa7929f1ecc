"""The C library's allocator, told to keep what training allocates and frees at every step."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""The options' numbers in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for this process's next allocations; other C libraries are left alone.

    By default, glibc gives large blocks back to the system when they are freed, and the system has to clear their pages
    again at the next step. No result depends on it. The option stays set for the rest of the process's life.
    """
    try:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            libc.mallopt(M_MMAP_THRESHOLD, 2**30)
            libc.mallopt(M_TRIM_THRESHOLD, 3 * 2**29)
    except (OSError, TypeError):  # a system, as Windows, whose C library is not found this way
        pass
