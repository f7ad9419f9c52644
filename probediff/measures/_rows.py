"""What every measure does first: check its input, flatten it to rows, stream the rows in float64."""

from collections.abc import Iterator

import torch
from torch import Tensor

# 32 MiB of float64: large enough for matrix products at full speed, small beside any set of images.
CHUNK_ELEMENTS = 2**22
# 1 MiB of float64: work on one element after the other is four times as fast on what the caches hold.
STREAM_ELEMENTS = 2**17


def as_rows(name: str, images: Tensor) -> Tensor:
    """Check one set of samples and flatten it after the first dimension.

    Args:
        name: What the caller calls the argument; it opens every message.
        images: (N, D) or (N, C, H, W). Any floating dtype.

    Returns:
        (N, D). Detached, in the dtype and on the device it came in.

    Raises:
        TypeError: Not a tensor, or not floating point.
        ValueError: Another rank, no samples, no values, NaN or infinity.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(images).__name__}; convert it with torch.as_tensor")
    if not images.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {images.dtype}; convert it with .float()")
    if images.ndim not in (2, 4):
        raise ValueError(
            f"{name} must be (N, D) or (N, C, H, W), got shape {tuple(images.shape)}; reshape it, samples first"
        )
    if images.numel() == 0:
        raise ValueError(
            f"{name} must hold at least one sample of at least one value, got shape {tuple(images.shape)}; "
            "check what was loaded"
        )
    rows = images.detach().flatten(1)
    _check_finite(name, rows)
    return rows


def _check_finite(name: str, rows: Tensor) -> None:
    # The extremes carry any NaN or infinity and, unlike isfinite(rows), need no temporary of the size of the input.
    low, high = torch.aminmax(rows)
    if torch.isfinite(low) and torch.isfinite(high):
        return
    bad = torch.cat([(~torch.isfinite(chunk)).sum(dim=1) for (chunk,) in float64_chunks(rows)])
    first = int(bad.nonzero()[0])
    raise ValueError(
        f"{name} must be finite, got {int(bad.sum())} NaN or infinite values in {int((bad > 0).sum())} "
        f"of {len(rows)} samples, first in sample {first}; leave these samples out"
    )


def same_length_rows(**named: Tensor) -> list[Tensor]:
    """Flatten several sets with equally many samples, (N, D) and (N, E); raises as `as_rows`, or ValueError."""
    rows = [as_rows(name, images) for name, images in named.items()]
    _check_agree("number of samples", list(named), [len(r) for r in rows])
    _check_agree("device", list(named), [r.device for r in rows])
    return rows


def same_shape_rows(**named: Tensor) -> list[Tensor]:
    """Flatten several sets of one shape, each to (N, D); raises as `as_rows`, or ValueError."""
    rows = same_length_rows(**named)
    _check_agree("shape", list(named), [tuple(images.shape) for images in named.values()])
    return rows


def _check_agree(what: str, names: list[str], values: list[object]) -> None:
    if any(value != values[0] for value in values[1:]):
        got = ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
        raise ValueError(f"{' and '.join(names)} must agree in {what}, got {got}; pass matching sets")


def check_at_least(name: str, value: int, smallest: int) -> None:
    """Raise TypeError where `value` is no int, ValueError where it is under `smallest`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}; pass a whole number")
    if value < smallest:
        raise ValueError(f"{name} must be at least {smallest}, got {value}; pass a larger one")


def check_num_samples(name: str, count: int, least: int, purpose: str) -> None:
    """Raise ValueError where `count` samples of `name` are too few for `purpose`."""
    if count < least:
        raise ValueError(f"{name} must hold at least {least} samples for {purpose}, got {count}; pass more")


def check_no_zero_rows(quantity: str, **named: Tensor) -> None:
    """Raise ValueError where a vector of one of the (N, D) sets is zero, so that `quantity` is undefined."""
    for name, rows in named.items():
        zero = ~rows.any(dim=1)
        if bool(zero.any()):
            raise ValueError(
                f"{name} must have no zero vector, got {int(zero.sum())} of {len(zero)} (first indices: "
                f"{first_indices(zero)}); {quantity} is undefined there, leave these samples out"
            )


def first_indices(flags: Tensor) -> str:
    """The first five indices where `flags`, (N,) bool, is true, for a message."""
    return ", ".join(str(index) for index in flags.nonzero().flatten()[:5].tolist())


def float64_chunks(*sets: Tensor, for_products: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """Matching chunks of rows of each (N, D) set, in float64: of one row, or as many as the caches hold.

    Chunks that go into matrix products are larger.
    """
    elements = CHUNK_ELEMENTS if for_products else STREAM_ELEMENTS
    size = max(1, elements // max(rows.shape[1] for rows in sets))
    for start in range(0, len(sets[0]), size):
        yield tuple(rows[start : start + size].double() for rows in sets)


def column_mean(rows: Tensor) -> Tensor:
    """Mean of (N, D) rows, (D,) float64; for identical rows it is that row exactly, without rounding."""
    origin = rows[0].double()
    total = torch.zeros_like(origin)
    for (chunk,) in float64_chunks(rows):
        total += (chunk - origin).sum(dim=0)
    return origin + total / len(rows)


def centred_columns(rows: Tensor) -> Tensor:
    """(N, D) rows minus their mean, float64; a constant column becomes exactly zero.

    The whole set is divided by its largest absolute value, so that fourth powers neither overflow nor vanish:
    the measures built on it do not depend on the scale.
    """
    centred = rows.double() - rows[0].double()
    centred -= centred.mean(dim=0)
    largest = torch.linalg.vector_norm(centred, ord=torch.inf)
    return centred.div_(largest) if largest > 0 else centred


def standardised_columns(rows: Tensor) -> Tensor:
    """(N, D) columns minus their mean, float64, each of norm 1; a constant column becomes exactly zero."""
    low, high = (extreme.double() for extreme in torch.aminmax(rows, dim=0))
    varies = high > low
    # Mapped to 0..1 first: a column that varies by little around a large value keeps all of its digits.
    columns = (rows.double() - low) / torch.where(varies, high - low, 1.0)
    columns -= columns.mean(dim=0)
    norms: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return columns / torch.where(varies, norms, 1.0)


def angle_between(unit_a: Tensor, unit_b: Tensor) -> Tensor:
    """(N,) radians between matching unit rows, by Kahan's formula, which is accurate near 0 and pi.

    "How Futile are Mindless Assessments of Roundoff", section 12; acos loses half of its digits there.
    """
    across = torch.linalg.vector_norm(unit_a - unit_b, dim=1)
    along = torch.linalg.vector_norm(unit_a + unit_b, dim=1)
    return 2 * torch.atan2(across, along)


def unit_rows(rows: Tensor) -> Tensor:
    """(N, D) float64 rows divided by their L2 norms; no row may be zero."""
    # Scaled by the largest entry first: squares of very small or large entries would leave the range of float64.
    scaled = rows / rows.abs().amax(dim=1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / norms
