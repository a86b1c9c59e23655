"""IDX and CIFAR files are parsed, or refused if their header or length is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import Split
from experiments.data.cifar import parse_records
from experiments.data.mnist import parse_idx
from fanin.errors import DataError

HEADER = bytes([0, 0, 8, 1, 0, 0, 0, 3])


@settings(deadline=None)
@given(shape=st.tuples(*[st.integers(0, 5)] * 3))
def test_idx_images_round_trip(shape: tuple[int, int, int]) -> None:
    images = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    content = bytes([0, 0, 8, 3]) + np.array(shape, ">u4").tobytes() + images.tobytes()
    np.testing.assert_array_equal(parse_idx(content, ndim=3), images)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with nothing"),
        (bytes([0, 0, 9, 1]) + HEADER[4:] + b"abc", "begins with 00000901, not 00000801"),
        (bytes([0, 0, 8, 3]) + HEADER[4:] + b"abc", "begins with 00000803"),
        (HEADER[:6], "ends within its header, after 6 bytes"),
        (HEADER + b"ab", "has 10 bytes, but 11 according to its header"),
        (HEADER + b"abcd", "has 12 bytes"),
    ],
)
def test_a_file_in_another_format_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=f"labels .*{reason}"):
        parse_idx(content, ndim=1, name="labels")


@pytest.mark.parametrize("length", [0, 1, 3072, 3074])
def test_a_truncated_record_is_refused(length: int) -> None:
    with pytest.raises(
        DataError, match=f"f has {length} bytes, not a multiple of the record size of 3073"
    ):
        parse_records(bytes(length), label_bytes=1, name="f")


def test_fewer_labels_than_images_are_refused() -> None:
    with pytest.raises(DataError, match="3 images, but 2 labels"):
        Split(torch.zeros(3, 1, 2, 2), torch.zeros(2, dtype=torch.int64))
