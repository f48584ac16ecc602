"""Low-rank matrices as pairs of factors: summed, measured and truncated without being multiplied out.

Everything is computed in float64: factors are small, and differences of nearly equal products stay exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Product(NamedTuple):
    """The matrix `B A`, or a stack of such matrices."""

    A: Tensor
    """(*stack, r, n)."""
    B: Tensor
    """(*stack, m, r)."""

    @property
    def rank(self) -> int:
        """Size of the inner axis; the matrix may be of a lower rank."""
        return self.A.shape[-2]

    @property
    def full_rank(self) -> int:
        """The highest rank that a matrix of this shape can have."""
        return min(self.A.shape[-1], self.B.shape[-2])

    def dense(self) -> Tensor:
        """The dense matrix, (*stack, m, n)."""
        return self.B @ self.A


def total(products: Sequence[Product], weights: Sequence[float] | None = None) -> Product:
    """The exact weighted sum, by concatenating factors. Its rank is the sum of the ranks."""
    weights = [1.0] * len(products) if weights is None else weights
    A = torch.cat([product.A.double() for product in products], -2)
    B = torch.cat([product.B.double() * weight for product, weight in zip(products, weights, strict=True)], -1)
    return Product(A, B)


def norm(product: Product) -> float:
    """Frobenius norm, from the triangular factors of two QR decompositions."""
    _, upper_B = torch.linalg.qr(product.B.double(), mode="r")
    _, upper_A = torch.linalg.qr(product.A.double().mT, mode="r")
    return float(torch.linalg.vector_norm(upper_B @ upper_A.mT))


def distance(one: Product, other: Product) -> float:
    """Frobenius norm of the difference."""
    return norm(total([one, other], [1.0, -1.0]))


def singular(product: Product, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition `U diag(S) Vh` of `B A`, in float64.

    Both factors are brought to triangular form, and only the small core between them is decomposed: O((m + n) r^2)
    instead of O(m n min(m, n)). The orthogonal parts are never formed, but applied to the vectors that are wanted.

    Args:
        product: of rank r.
        most: how many singular values are wanted; None: all.

    Returns:
        U (*stack, m, k), S (*stack, k) falling, Vh (*stack, k, n), with k = min(r, m, n, most).
    """
    reflected_B, reflected_A = torch.geqrf(product.B.double()), torch.geqrf(product.A.double().mT)
    U, S, Vh = torch.linalg.svd(_upper(reflected_B) @ _upper(reflected_A).mT, full_matrices=False)
    k = S.shape[-1] if most is None else min(most, S.shape[-1])
    return _applied(reflected_B, U[..., :k]), S[..., :k], _applied(reflected_A, Vh[..., :k, :].mT).mT


def truncated(product: Product, rank: int) -> Product:
    """The nearest matrix of this rank (Eckart and Young): A has orthonormal rows, B the strength.

    Where the product is of a lower rank, columns of B are zero and rows of A are still orthonormal as far as
    there are directions, so that every row can go on learning.
    """
    U, S, Vh = singular(product, rank)
    return Product(Vh, U * S[..., None, :])


def _upper(reflected: tuple[Tensor, Tensor]) -> Tensor:
    """The triangular factor of what `torch.geqrf` gave."""
    packed, tau = reflected
    return packed[..., : tau.shape[-1], :].triu()


def _applied(reflected: tuple[Tensor, Tensor], columns: Tensor) -> Tensor:
    """The orthogonal factor of what `torch.geqrf` gave, times some columns."""
    packed, tau = reflected
    long = columns.new_zeros(*columns.shape[:-2], packed.shape[-2], columns.shape[-1])
    long[..., : columns.shape[-2], :] = columns
    return torch.ormqr(packed[..., : tau.shape[-1]], tau, long)


def compressed(product: Product) -> Product:
    """The same matrix, its inner axis cut to the highest rank that its shape allows."""
    return product if product.rank <= product.full_rank else truncated(product, product.full_rank)


def padded(product: Product, rank: int) -> Product:
    """The same matrix, padded with zeros to this rank."""
    A, B = product
    missing = rank - product.rank
    if not missing:
        return product
    return Product(
        torch.cat([A, A.new_zeros(*A.shape[:-2], missing, A.shape[-1])], -2),
        torch.cat([B, B.new_zeros(*B.shape[:-1], missing)], -1),
    )


def narrowed(product: Product, rank: int) -> Product:
    """The first `rank` rows of A and columns of B."""
    return Product(product.A[..., :rank, :], product.B[..., :rank])
