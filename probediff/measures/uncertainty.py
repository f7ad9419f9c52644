"""Standard errors: how far a number would be off with other noises, as many of them.

The standard error of a statistic of N samples is its standard deviation over fresh sets of N samples. Where the
expected value depends on N, as that of assignment accuracies, of large correlations and of CKA does, an interval made
with it is one for the expectation at that N.

Means over samples, and functions of several of them, have it from all samples. Where samples are compared with one
another it is the delete-a-group jackknife (Kott 2001): the samples in 20 groups, the statistic without each of them.
Nothing is drawn with replacement: a sample that is there twice is its own nearest neighbour. Extremes over very many
correlations select other pairs in every set, which the jackknife takes for noise (its error of the ten largest of
white noise is 2.4 times too large): they have it from the differences of halves. SVCCA, whose last direction changes
place with the next one, has it from the spread over halves.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Groups of the jackknife; its error has one degree of freedom less.
NUM_GROUPS = 20
#: Half the length of a 95 % interval in standard errors: Student's t with 19 degrees of freedom.
ERRORS_IN_INTERVAL = 2.093
#: Groups that halves are made of, a power of two.
_NUM_PARTS = 16


@dataclass(frozen=True)
class WithError:
    """A number and its standard error over samples; NaN where it is not defined."""

    value: float
    error: float


def mean_with_error(values: Tensor) -> WithError:
    """Mean of (N,) independent values and its standard error, which is NaN for fewer than two."""
    values = values.double()
    error = float(values.std(correction=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return WithError(float(values.mean()), error)


def share_error(share: float, num_samples: int) -> float:
    """Standard error of a share of N independent samples, at least `least_share_error`; NaN for fewer than two."""
    if num_samples < 2:
        return math.nan
    return max(math.sqrt(share * (1 - share) / (num_samples - 1)), least_share_error(num_samples))


def least_share_error(num_samples: int) -> float:
    """Least standard error of a share of N samples: an interval of 3 / N around 0 or 1 (the rule of three).

    Where all samples are alike their spread is 0, which says little of other ones: a share of 0 of N is found with a
    probability of 5 % if the true one is 3 / N.
    """
    return 3 / (num_samples * ERRORS_IN_INTERVAL)


def error_of_means(function: Callable[[Tensor], Tensor], *terms: Tensor) -> float:
    """Standard error of a function of means over N independent samples, by the delete-one jackknife.

    Args:
        function: (K, ...) means, such as those of x and x², to the (...) values of the statistic.
        terms: K tensors (N,), one value a sample.

    Returns:
        NaN for fewer than two samples, or where the function is not finite without one of them.
    """
    stacked = torch.stack([term.double() for term in terms])
    count = stacked.shape[1]
    if count < 2:
        return math.nan
    # By sums: where all others are 0 their mean is exactly that, so that nothing is divided by rounding.
    return jackknife_error(function((stacked.sum(dim=1, keepdim=True) - stacked) / (count - 1)))


def std_with_error(values: Tensor) -> WithError:
    """Standard deviation of (N,) values, dividing by N, and its standard error."""
    centred = values.double() - values.double().mean()
    return WithError(
        float(values.double().std(correction=0)), error_of_means(std_of_moments, centred, centred.square())
    )


def moments_with_errors(images: Tensor) -> tuple[WithError, WithError]:
    """Mean and standard deviation of all values of (N, ...) images, and their errors over the images."""
    rows = images.flatten(1).double()
    mean = float(rows.mean())
    terms = (rows - mean).mean(dim=1), (rows - mean).square().mean(dim=1)
    std = WithError(float(rows.std(correction=0)), error_of_means(std_of_moments, *terms))
    return WithError(mean, mean_with_error(terms[0]).error), std


def split_errors(numbers: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Values of numbers, which are plain or a `WithError`, by name, and the standard errors of those that have one."""
    values = {key: n.value if isinstance(n, WithError) else n for key, n in numbers.items()}
    errors = {key: n.error for key, n in numbers.items() if isinstance(n, WithError) and not math.isnan(n.error)}
    return values, errors


def std_of_moments(moments: Tensor) -> Tensor:
    """Standard deviation from (2, ...) means of x and of x²."""
    return (moments[1] - moments[0].square()).clamp(min=0).sqrt()


def jackknife_error(without: Tensor) -> float:
    """Standard error from (G,) values of a statistic, each without one of G groups; NaN for fewer than two."""
    count = len(without)
    if count < 2:
        return math.nan
    values = without.double()
    return math.sqrt((count - 1) / count * float((values - values.mean()).square().sum()))


def rows_without_groups(num_samples: int) -> Iterator[Tensor]:
    """Indices of the samples that are kept when each group is left out; sample i is of group i modulo 20.

    With fewer samples each is a group of its own.
    """
    index = torch.arange(num_samples)
    for group in range(min(NUM_GROUPS, num_samples)):
        yield index[index % NUM_GROUPS != group]


def jackknife(statistics: Callable[[Tensor], Mapping[str, float]], num_samples: int) -> dict[str, float]:
    """Standard errors of several statistics by the delete-a-group jackknife, which computes all of them 20 times.

    Args:
        statistics: indices of the samples that are there -> numbers.
        num_samples: N.

    Returns:
        By name; none where the statistics are not defined for so few samples.
    """
    try:
        return jackknife_errors([statistics(kept) for kept in rows_without_groups(num_samples)])
    except ValueError:
        return {}


def jackknife_errors(without: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`jackknife_error` of numbers by name, of which one each without one of the groups; those that are finite."""
    names = without[0] if len(without) > 1 else ()
    errors = {
        name: jackknife_error(torch.tensor([values[name] for values in without], dtype=torch.float64)) for name in names
    }
    return {name: error for name, error in errors.items() if not math.isnan(error)}


def half_splits(num_samples: int) -> Tensor:
    """15 ways to halve the samples, (15, N) bool: True in one half, False in the other.

    The samples are in 16 parts, eight of which are in a half; any two ways share four parts in each half (the rows of
    Sylvester's Hadamard matrix), so that what they tell of a mean is independent.
    """
    part = torch.arange(num_samples) % _NUM_PARTS
    row = torch.arange(1, _NUM_PARTS)[:, None]
    shared = row & part
    # Parity of the number of common bits.
    for shift in (2, 1):
        shared = shared ^ (shared >> shift)
    return (shared & 1).bool()


def error_from_halves(one: Tensor, other: Tensor) -> float:
    """Standard error of a statistic of N samples from its values on halves, (S,) each, of S ways to halve them.

    The halves are independent sets, so that E (one - other)² = 2 Var(N / 2), and a variance that falls as 1 / N is a
    quarter of that: whatever the statistic selects in a set, it does in each half by itself.
    """
    return math.sqrt(float((one - other).double().square().mean()) / 4)
