"""IDX, the format of MNIST: a magic number, big-endian sizes, then the bytes (LeCun et al.)."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from fanin.errors import DataError

UNSIGNED_BYTE = 0x08


def parse_idx(content: bytes, ndim: int, name: str = "file") -> UInt8[np.ndarray, ...]:
    """Return the array that an IDX file of unsigned bytes holds.

    Parameters
    ----------
    content
        The whole file, decompressed.
    ndim
        How many dimensions it must have: 1 for labels, 3 for images.
    name
        What to call it in errors.

    Raises
    ------
    DataError
        The magic number, or the length, is not what it should be.

    Examples
    --------
    >>> parse_idx(bytes([0, 0, 8, 1,  0, 0, 0, 2,  7, 9]), ndim=1)
    array([7, 9], dtype=uint8)
    """
    magic = bytes([0, 0, UNSIGNED_BYTE, ndim])
    if content[:4] != magic:
        raise DataError(
            f"{name} is no IDX file of {ndim} dimensions: it begins with "
            f"{content[:4].hex() or 'nothing'}, not {magic.hex()}"
        )
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(f"{name} ends within its header, after {len(content)} bytes")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    size = int(np.prod(shape, dtype=object))
    if len(content) != header + size:
        raise DataError(
            f"{name} has {len(content)} bytes, but its header announces {header + size}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
