"""Standard errors of CKA and SVCCA: jackknives at little more than the price of the values themselves.

That of CKA equals `uncertainty.jackknife`, which computes everything anew without each group; that of SVCCA is the
spread over halves.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probediff.measures._rows import (
    CHUNK_ELEMENTS,
    centred_columns,
    check_at_least,
    same_length_rows,
    standardised_columns,
)
from probediff.measures.uncertainty import NUM_GROUPS, half_splits, jackknife_error

# Further directions than those that are compared, and iterations: what is left out changes the leading ones by little.
_MORE_DIRECTIONS, _ITERATIONS = 10, 3
# Of float32: what is left of a column that is the same in all rows.
_ROUNDING = 1e-6
# Of float64: what is left of the products of a set that is constant, or equally far apart, without a group.
_PRODUCT_FLOOR = 1e-12
# Below these the smallest group that can be left out leaves too few.
_FEWEST_FOR_CKA = 6


def cka_errors(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Standard errors of `cka` over fresh sets of N samples, of the biased and of the debiased one.

    One pass over the Gram matrices K and L gives sums of their products by pairs of groups; a set that lacks a group is
    centred by what its row sums lack.

    Args:
        x: (N, D) or (N, C, H, W).
        y: (N, E) or (N, C, H, W).

    Returns:
        NaN for fewer than 6 samples; for both where the error is not defined, as for samples equally far apart.

    Raises:
        ValueError: Different N, wrong rank, nothing in them, or values not finite.
    """
    rows = same_length_rows(x=x, y=y)
    num = len(rows[0])
    if num < _FEWEST_FOR_CKA:
        return math.nan, math.nan
    centred = [centred_columns(part) for part in rows]
    group = torch.arange(num, device=centred[0].device) % NUM_GROUPS
    members = torch.nn.functional.one_hot(group).double()
    kept = 1 - members
    size = kept.sum(dim=0)
    # What the rows of each kept set sum to is minus the sum over its missing group, as all rows sum to zero.
    towards = [-(part @ (members.T @ part).T) * kept for part in centred]
    total = [column.sum(dim=0) for column in towards]
    norms = [
        (part.square().sum(dim=1, keepdim=True) - 2 / size * column + whole / size**2) * kept
        for part, column, whole in zip(centred, towards, total, strict=True)
    ]
    biased, debiased = [], []
    for (i, j), sums in zip(((0, 0), (0, 1), (1, 1)), _products_by_group(centred[0], centred[1], members), strict=True):
        without = sums.sum() - 2 * sums.sum(dim=1) + sums.diagonal()
        without += -2 / size * (towards[i] * towards[j]).sum(dim=0) + total[i] * total[j] / size**2
        s, t = norms[i], norms[j]
        diagonal = s.sum(dim=0) * t.sum(dim=0) / (size - 1) - size * (s * t).sum(dim=0)
        unbiased = without + diagonal / (size - 2)
        if i == j:
            without, unbiased = _where_known(without, sums.sum()), _where_known(unbiased, without)
        biased.append(without)
        debiased.append(unbiased)
    return _error_of_ratio(*biased), _error_of_ratio(*debiased)


def _where_known(products: Tensor, whole: Tensor) -> Tensor:
    """Products of a set with itself, NaN where there is nothing but rounding of larger ones left."""
    return products.where(products > _PRODUCT_FLOOR * whole, torch.nan)


def _error_of_ratio(xx: Tensor, xy: Tensor, yy: Tensor) -> float:
    return jackknife_error(xy / (xx.sqrt() * yy.sqrt()))


def _products_by_group(x: Tensor, y: Tensor, members: Tensor) -> Tensor:
    """Sums of K * K, K * L and L * L over pairs of groups, (3, G, G); K = X X^T, L = Y Y^T."""
    num, groups = members.shape
    size = max(1, min(1024, CHUNK_ELEMENTS // num))
    sums = x.new_zeros(3, groups, groups)
    for start in range(0, num, size):
        gram_x, gram_y = (part[start : start + size] @ part[start:].T for part in (x, y))
        own = members[start : start + size].T
        for index, product in enumerate((gram_x.square(), gram_x * gram_y, gram_y.square())):
            # The matrices are symmetric: what lies right of the diagonal block stands for its mirror image too.
            block, right = product[:, : own.shape[1]], product[:, own.shape[1] :]
            sums[index] += own @ block @ own.T
            across = own @ (right @ members[start + own.shape[1] :])
            sums[index] += across + across.T
    return sums


def svcca_error(x: Tensor, y: Tensor, num_directions: int = 10) -> float:
    """Standard error of `svcca` over fresh sets of N samples: the delete-half jackknife (Shao & Wu 1989).

    The last of the directions changes place with the next one from set to set. Leaving out a twentieth of the samples
    takes such a jump for far more uncertainty than it is (2 to 3 times); the spread over halves is of the right size.
    The leading directions of each half are found by subspace iteration from those of all samples.

    Args:
        x: (N, D) or (N, C, H, W).
        y: (N, E) or (N, C, H, W).
        num_directions: As for `svcca`.

    Returns:
        NaN where a half has too few samples for the directions.

    Raises:
        ValueError: Different N, wrong rank, nothing in them, or values not finite.
    """
    rows = same_length_rows(x=x, y=y)
    check_at_least("num_directions", num_directions, 1)
    splits = half_splits(len(rows[0])).to(rows[0].device)
    halves = torch.cat([splits, ~splits])
    if int(halves.sum(dim=1).min()) <= num_directions:
        return math.nan
    bases = (_directions_of_subsets(part, halves, num_directions) for part in rows)
    values = [torch.linalg.svdvals(u_x.T @ u_y).clamp(max=1.0).mean() for u_x, u_y in zip(*bases, strict=True)]
    return float(torch.stack(values).double().std(correction=0))


@dataclass(frozen=True)
class _Standardised:
    """Columns standardised over the rows that are kept, as an operator: (columns - mean) * scale, other rows zero."""

    columns: Tensor
    is_kept: Tensor
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, columns: Tensor, squares: Tensor, is_kept: Tensor) -> "_Standardised":
        """Those of centred columns, whose squares are at hand; ``is_kept`` (N,) bool."""
        kept, missing = is_kept.to(columns), ~is_kept
        mean = -columns[missing].sum(dim=0) / kept.sum()
        whole = squares.sum(dim=0)
        left = whole - squares[missing].sum(dim=0) - kept.sum() * mean.square()
        varies = left > _ROUNDING * whole
        return cls(columns, kept[:, None], mean, torch.where(varies, left, 1.0).rsqrt() * varies)

    def to_columns(self, directions: Tensor) -> Tensor:
        """(N, R) -> (D, R)."""
        # What an orthogonal basis is filled up with, where the rank is lower, may not be zero in other rows.
        directions = directions * self.is_kept
        return (self.columns.T @ directions - self.mean[:, None] * directions.sum(dim=0)) * self.scale[:, None]

    def to_rows(self, weights: Tensor) -> Tensor:
        """(D, R) -> (N, R)."""
        scaled = weights * self.scale[:, None]
        return (self.columns @ scaled - self.mean @ scaled) * self.is_kept

    def leading(self, start: Tensor, num_iterations: int) -> Tensor:
        """Leading left singular vectors by subspace iteration, (N, R), the first one last."""
        basis: Tensor = torch.linalg.qr(start * self.is_kept).Q
        for _ in range(num_iterations):
            basis = torch.linalg.qr(self.to_rows(self.to_columns(basis))).Q
        projected = self.to_columns(basis)
        return self.is_kept * (basis @ torch.linalg.eigh(projected.T @ projected).eigenvectors)


def _directions_of_subsets(rows: Tensor, subsets: Tensor, num_directions: int) -> Iterator[Tensor]:
    """Leading left singular vectors of the columns, standardised over each of (S, N) subsets, (N, num_directions)."""
    columns = standardised_columns(rows).float()
    width = min(num_directions + _MORE_DIRECTIONS, *columns.shape)
    squares = columns.square()
    start = torch.randn(len(columns), width, generator=torch.Generator().manual_seed(0)).to(columns)
    every = _Standardised.of(columns, squares, torch.ones_like(subsets[0])).leading(start, 2 * _ITERATIONS)
    for is_kept in subsets:
        yield _Standardised.of(columns, squares, is_kept).leading(every, _ITERATIONS)[:, -num_directions:]
