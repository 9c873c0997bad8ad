"""Changed files: one bit, a swapped block, or a cut, at places drawn from a seed."""

from collections.abc import Iterator

import numpy as np


def mutations(content: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` changed versions of a file's content, each with a description."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        kind = rng.choice(["bit", "digit", "zeros", "cut"], p=[0.5, 0.2, 0.2, 0.1])
        changed = bytearray(content)
        place = int(rng.integers(len(content)))
        if kind == "bit":
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == "digit":
            digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
            place = int(rng.choice(digits)) if digits else place
            changed[place] = ord(str(rng.integers(10)))
        elif kind == "zeros":
            changed[place : place + 16] = bytes(len(changed[place : place + 16]))
        else:
            del changed[place:]
        if bytes(changed) != content:
            yield f"{kind} at {place}", bytes(changed)
