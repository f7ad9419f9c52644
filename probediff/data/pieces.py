"""Images spread over many files, read in gathers as if they were one array."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

#: Pieces that are opened side by side, for each may have to be fetched.
CONCURRENT = 8


class ImagePieces(ABC):
    """(N, C, H, W) uint8 in pieces that a subclass opens; indexed by an array of image numbers.

    Args:
        counts: Images in each piece, in order.
        image_shape: (C, H, W).
        max_open: Pieces kept open, those used latest; all by default.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, counts: Sequence[int], image_shape: tuple[int, int, int], max_open: int | None = None) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self._ends = np.cumsum(self.counts)
        self.shape = (int(self.counts.sum()), *image_shape)
        self.max_open = len(self.counts) if max_open is None else max_open
        self._open: dict[int, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Images (B, C, H, W) of ``indices`` (B,), one gather from each piece that they touch.

        Raises:
            IndexError: An index is not in 0..N-1.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"indices must lie in 0..{len(self) - 1}, got {rows.min()}..{rows.max()}")
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        piece = np.searchsorted(self._ends, rows, side="right")
        offset = rows - (self._ends - self.counts)[piece]
        order = np.argsort(piece, kind="stable")
        touched, first = np.unique(piece[order], return_index=True)
        for source, members in zip(self.open_pieces(touched.tolist()), np.split(order, first)[1:], strict=True):
            images[members] = source[offset[members]]
        return images

    def open_pieces(self, numbers: list[int]) -> list[npt.NDArray[Any]]:
        """The pieces of these numbers, each (n, C, H, W) uint8."""
        if missing := [number for number in numbers if number not in self._open]:
            with ThreadPoolExecutor(CONCURRENT) as pool:
                self._open.update(zip(missing, pool.map(self.open_piece, missing), strict=True))
        latest = {number: self._open.pop(number) for number in numbers}
        self._open = dict([*self._open.items(), *latest.items()][-self.max_open :])
        return list(latest.values())

    @abstractmethod
    def open_piece(self, number: int) -> npt.NDArray[Any]:
        """One piece (n, C, H, W) uint8, mapped into memory, so that only touched pages are read."""

    def __getstate__(self) -> dict[str, Any]:
        """Without the pieces: a worker process opens its own."""
        return self.__dict__ | {"_open": {}}
