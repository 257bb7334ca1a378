"""How this process's allocator is kept from giving a request's memory back to the system after every request.

glibc takes blocks above a threshold straight from the system, and each of their pages is then mapped, cleared and
unmapped again, request by request; eight crops are 2.1 MB. The threshold grows by itself, up to 32 MiB, with the
largest such block that was ever freed (mallopt(3), M_MMAP_THRESHOLD, "dynamic"). Freeing one large block, never
touched, brings it there. Nothing is set: whoever has fixed the threshold (MALLOC_MMAP_THRESHOLD_) keeps it, and other
allocators do not notice.
"""

from __future__ import annotations

import numpy as np

_LARGEST_DYNAMIC_BYTES = 32 * 1024 * 1024
_PAGE_BYTES = 4096


def keep_freed_memory() -> None:
    """Raise the allocator's own threshold above the size of any request; costs microseconds and no memory."""
    np.empty(_LARGEST_DYNAMIC_BYTES - 4 * _PAGE_BYTES, dtype=np.uint8)  # freed as this line ends
