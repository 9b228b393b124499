import numpy as np
import pytest
from tensorboardX.crc32c import crc32c as by_bytes

from input_pipeline.crc32c import crc32c


def test_published_sums():
    # RFC 3720, appendix B.4, and the check value of the polynomial's catalogue entry.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("length", [0, 1, 3, 2047, 2048, 2049, 4096, 6143, 100_003])
def test_any_length_is_as_by_bytes(length):
    rng = np.random.default_rng(length)
    for data in (rng.bytes(length), bytes(length), b"\xff" * length):
        assert crc32c(data) == by_bytes(data)
