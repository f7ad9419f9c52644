"""Slow, literal transcriptions of the inversion methods' published formulas, one image (D,) at a time in numpy.

`eps(x, t)` predicts the noise in the vector x at timestep t; `a` are the levels alpha_bar of the sampler's states,
a[0] = 1 for the image, and t[i] the timestep of state i (t[0] is not used).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Eps = Callable[[Array, int], Array]
Ladder = tuple[Sequence[float], Sequence[int]]


def implicit_right_side(eps: Eps, ladder: Ladder, i: int, x: Array, z: Array) -> Array:
    """AIDI eq. 5, ReNoise eq. 3, GNRI eq. 3: what z_i must equal, given z_(i-1) = x."""
    a, t = ladder
    ratio = np.sqrt(a[i] / a[i - 1])
    b = np.sqrt(1 - a[i]) - ratio * np.sqrt(1 - a[i - 1])
    return np.asarray(ratio * x + b * eps(z, t[i]))


def fixed_point(eps: Eps, ladder: Ladder, x: Array, iterations: int, damping: float) -> Array:
    for i in range(1, len(ladder[0])):
        z = x
        for _ in range(iterations):
            z = damping * z + (1 - damping) * implicit_right_side(eps, ladder, i, x, z)
        x = z
    return x


def anderson(eps: Eps, ladder: Ladder, x: Array, iterations: int, memory: int) -> Array:
    """Walker & Ni 2011, algorithm AA, the weights by Lagrange's conditions of the constrained problem."""
    for i in range(1, len(ladder[0])):
        iterates = [x]
        for k in range(iterations):
            m = min(memory, k)
            mapped = [implicit_right_side(eps, ladder, i, x, z) for z in iterates[k - m : k + 1]]
            residuals = np.stack([g - z for g, z in zip(mapped, iterates[k - m : k + 1], strict=True)])
            system = np.zeros((m + 2, m + 2))
            system[: m + 1, : m + 1] = residuals @ residuals.T
            system[m + 1, : m + 1] = system[: m + 1, m + 1] = 1
            scale = np.trace(system[: m + 1, : m + 1])
            system[: m + 1, : m + 1] /= scale
            weights = np.linalg.solve(system, np.eye(m + 2)[m + 1])[: m + 1]
            iterates.append(sum(w * g for w, g in zip(weights, mapped, strict=True)))
        x = iterates[-1]
    return x


def renoise(eps: Eps, ladder: Ladder, x: Array, iterations: int, average: int) -> Array:
    """ReNoise, algorithm 1, with equal weights on the last estimates."""
    for i in range(1, len(ladder[0])):
        estimates = []
        z = x
        for _ in range(iterations + 1):
            z = implicit_right_side(eps, ladder, i, x, z)
            estimates.append(z)
        x = np.mean(estimates[-average:], axis=0)
    return x


def newton(eps: Eps, ladder: Ladder, x: Array, iterations: int, prior: float, smallest_slope: float) -> Array:
    """GNRI, section 4, with the gradient by central differences."""
    a, _ = ladder
    dimensions = len(x)
    for i in range(1, len(a)):
        beta = 1 - a[i] / a[i - 1]
        mean = np.sqrt(1 - beta) * x

        def objective(z: Array, i: int = i, x: Array = x, beta: float = beta, mean: Array = mean) -> float:
            residual = np.abs(z - implicit_right_side(eps, ladder, i, x, z)).sum()
            return float(residual + prior * ((z - mean) ** 2).sum() / (2 * beta))

        z, found = x, []
        for _ in range(iterations):
            value = objective(z)
            found.append((value, implicit_right_side(eps, ladder, i, x, z)))
            moved = z.copy()
            for k in range(dimensions):
                nudge = 1e-6 * np.eye(dimensions)[k]
                slope = (objective(z + nudge) - objective(z - nudge)) / 2e-6
                slope = (-1 if slope < 0 else 1) * max(abs(slope), smallest_slope)
                moved[k] = z[k] - value / (dimensions * slope)
            z = moved
        x = min(found, key=lambda pair: pair[0])[1]
    return x


def edict_sample(eps: Eps, ladder: Ladder, x: Array, p: float) -> tuple[Array, Array]:
    """EDICT eq. 13, the two sequences changing places after each step but not in the mixing."""
    a, t = ladder
    y = x
    n = len(a) - 1
    for count, i in enumerate(range(n, 0, -1)):
        ratio = np.sqrt(a[i - 1] / a[i])
        b = np.sqrt(1 - a[i - 1]) - ratio * np.sqrt(1 - a[i])
        if count % 2 == 0:
            x_inter = ratio * x + b * eps(y, t[i])
            y_inter = ratio * y + b * eps(x_inter, t[i])
        else:
            y_inter = ratio * y + b * eps(x, t[i])
            x_inter = ratio * x + b * eps(y_inter, t[i])
        x = p * x_inter + (1 - p) * y_inter
        y = p * y_inter + (1 - p) * x
    return x, y


def edict_invert(eps: Eps, ladder: Ladder, x: Array, y: Array, p: float) -> tuple[Array, Array]:
    """EDICT eq. 14."""
    a, t = ladder
    n = len(a) - 1
    for i in range(1, n + 1):
        ratio = np.sqrt(a[i - 1] / a[i])
        b = np.sqrt(1 - a[i - 1]) - ratio * np.sqrt(1 - a[i])
        y_inter = (y - (1 - p) * x) / p
        x_inter = (x - (1 - p) * y_inter) / p
        if (n - i) % 2 == 0:
            y = (y_inter - b * eps(x_inter, t[i])) / ratio
            x = (x_inter - b * eps(y, t[i])) / ratio
        else:
            x = (x_inter - b * eps(y_inter, t[i])) / ratio
            y = (y_inter - b * eps(x, t[i])) / ratio
    return x, y


def ddim_move(eps: Eps, ladder: Ladder, x: Array, i: int, j: int) -> Array:
    """Delta(t_i -> t_j) of BDIA: the change from state i to state j along the noise predicted at state i."""
    a, t = ladder
    noise = eps(x, t[i])
    x_0 = (x - np.sqrt(1 - a[i]) * noise) / np.sqrt(a[i])
    return np.asarray(np.sqrt(a[j]) * x_0 + np.sqrt(1 - a[j]) * noise - x)


def bdia_sample(eps: Eps, ladder: Ladder, x: Array, gamma: float) -> list[Array]:
    """BDIA, the update of z_(i-1); all states, the noise first."""
    states = [x, x + ddim_move(eps, ladder, x, len(ladder[0]) - 1, len(ladder[0]) - 2)]
    for i in range(len(ladder[0]) - 2, 0, -1):
        before, z = states[-2:]
        first = -(1 - gamma) * (before - z) - gamma * ddim_move(eps, ladder, z, i, i + 1)
        states.append(before + first + ddim_move(eps, ladder, z, i, i - 1))
    return states


def belm_coefficients(a: Sequence[float], i: int) -> tuple[Array, Array, float, float]:
    """alpha of the states, sigma / alpha, h_i and h_(i+1)."""
    alpha = np.sqrt(np.asarray(a))
    ratio = np.sqrt(1 - alpha**2) / alpha
    return alpha, ratio, ratio[i] - ratio[i - 1], ratio[i + 1] - ratio[i]


def belm_sample(eps: Eps, ladder: Ladder, x: Array) -> list[Array]:
    """O-BELM's sampler; all states, the noise first."""
    a, t = ladder
    states = [x, x + ddim_move(eps, ladder, x, len(a) - 1, len(a) - 2)]
    for i in range(len(a) - 2, 0, -1):
        alpha, _, h, h_next = belm_coefficients(a, i)
        states.append(
            h**2 / h_next**2 * alpha[i - 1] / alpha[i + 1] * states[-2]
            + (h_next**2 - h**2) / h_next**2 * alpha[i - 1] / alpha[i] * states[-1]
            - h * (h + h_next) / h_next * alpha[i - 1] * eps(states[-1], t[i])
        )
    return states


def belm_invert(eps: Eps, ladder: Ladder, x_0: Array, x_1: Array) -> list[Array]:
    """O-BELM's inversion; all states, the image first."""
    a, t = ladder
    states = [x_0, x_1]
    for i in range(1, len(a) - 1):
        alpha, _, h, h_next = belm_coefficients(a, i)
        states.append(
            h_next**2 / h**2 * alpha[i + 1] / alpha[i - 1] * states[-2]
            + (h**2 - h_next**2) / h**2 * alpha[i + 1] / alpha[i] * states[-1]
            + h_next * (h + h_next) / h * alpha[i + 1] * eps(states[-1], t[i])
        )
    return states
