"""Settings of this process that make a CPU fast."""

import ctypes
import sys

import torch

# From malloc.h of glibc; the values must fit an int.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _MAPPED_BYTES = 2**31 - 1, 2**30


def set_up_cpu() -> None:
    """Flush denormals to zero, and keep freed memory for the next tensor instead of returning it to the system.

    Untrained networks produce denormals, which slow CPUs down a hundredfold. And glibc gives every tensor above 32 MiB
    new pages from the system: a network evaluation of 128 images of 32 x 32 takes twice as long for it. Nothing else
    changes; without glibc memory is left as it is.
    """
    torch.set_flush_denormal(True)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
