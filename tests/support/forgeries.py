"""Contents that were made to share one xxh3_128, as anybody can make them."""

from __future__ import annotations

import struct

# Of the secret that is part of the hash, what meets the first words of the first two stripes.
_SECRET = (0x396CFEB8, 0x2C81017C)
_LANES = (0, 64)
_SUM = 0xFFFFFFFF


def forged(number: int) -> bytes:
    """One of 2**32 contents of 512 bytes.

    Half of a word is multiplied with the other half, which is made zero here; then words are added,
    and these two have the same sum in all of them.
    """
    content = bytearray(b"A" * 512)
    for at, secret, value in zip(_LANES, _SECRET, (number, _SUM - number), strict=True):
        struct.pack_into("<II", content, at, secret, value)
    return bytes(content)
