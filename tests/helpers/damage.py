"""Damage of files that several tests do."""

import random


def one_bit_flipped(whole: bytes, count: int, *places: int):
    """The contents of a file with one bit flipped: at ``count`` random places, and at some bits from each place on."""
    chosen = random.Random(0)
    bits = [chosen.randrange(8 * len(whole)) for _ in range(count)]
    bits += [8 * place + bit for place in places for bit in range(0, 8 * 100, 23)]
    for bit in (bit for bit in bits if bit < 8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def denied(*_):
    """What opening a file does that one may not read."""
    raise PermissionError(13, "Permission denied")
