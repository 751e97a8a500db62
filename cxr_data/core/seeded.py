"""Random draws by a seed and a name: the same for any order of the names and any version of numpy."""

import hashlib


def seeded_hash(seed: int, purpose: str, name: str) -> bytes:
    """Return 32 bytes to order names by; draws of different purposes are independent of each other."""
    return hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode("utf-8", "surrogateescape")).digest()


def seeded_fraction(seed: int, purpose: str, name: str) -> float:
    """Return a draw from [0, 1)."""
    return int.from_bytes(seeded_hash(seed, purpose, name)[:6], "big") / (1 << 48)
