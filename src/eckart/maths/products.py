"""Sums over tokens of products, ``A^T B``, faster where the numbers have few digits.

A bfloat16 number has 8 binary digits, and the product of two such numbers 16: float32 holds it whole, whatever
multiplies them. So matrices of such numbers may be multiplied by what CPUs have for bfloat16, which sums in float32,
too: nothing is lost.
"""

from __future__ import annotations

from torch import Tensor

from eckart.device import products_in_bfloat16

GRAM_COLUMNS = 512  # at a time: fewer leave out more of the lower half, and are multiplied less efficiently


def cross(left: Tensor, right: Tensor, *, short: bool = False) -> Tensor:
    """Return ``A^T B``, (n, k), in the dtype of both.

    Args:
        left: A, (tokens, n).
        right: B, (tokens, k).
        short: whether all numbers of both are bfloat16 ones, held in float32.
    """
    if not short:
        return left.T @ right
    with products_in_bfloat16(left.device):
        return left.T @ right


def gram(rows: Tensor, *, short: bool = False) -> Tensor:
    """Return ``X^T X``, (n, n), in the dtype of ``rows``: its upper half multiplied, its lower half copied.

    Args:
        rows: X, (tokens, n).
        short: whether all numbers are bfloat16 ones, held in float32.
    """
    size = rows.shape[1]
    result = rows.new_empty(size, size)
    for start in range(0, size, GRAM_COLUMNS):
        columns = slice(start, start + GRAM_COLUMNS)
        product = cross(rows[:, columns], rows[:, start:], short=short)
        result[columns, start:] = product
        result[start:, columns] = product.T
    return result
