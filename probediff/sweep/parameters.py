"""What a sweep file may say of one parameter, by W&B's distributions; refused here before a server or a trial fails."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

#: By distribution: what it needs, and what it may have beside that.
DISTRIBUTIONS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "constant": (frozenset({"value"}), frozenset()),
    "categorical": (frozenset({"values"}), frozenset()),
    "categorical_w_probabilities": (frozenset({"values", "probabilities"}), frozenset()),
    **{
        name: (frozenset({"min", "max"}), frozenset({"q"} if name.startswith("q_") else ()))
        for name in (
            *("int_uniform", "uniform", "log_uniform", "log_uniform_values"),
            *("q_uniform", "q_log_uniform", "q_log_uniform_values", "inv_log_uniform", "inv_log_uniform_values"),
        )
    },
    **{name: (frozenset(), frozenset({"mu", "sigma"})) for name in ("normal", "log_normal")},
    **{name: (frozenset(), frozenset({"mu", "sigma", "q"})) for name in ("q_normal", "q_log_normal")},
    "beta": (frozenset(), frozenset({"a", "b"})),
    "q_beta": (frozenset(), frozenset({"a", "b", "q"})),
}
_NUMBERS = ("min", "max", "q", "mu", "sigma", "a", "b")
_POSITIVE = ("q", "sigma", "a", "b")
#: Largest exponent of e that a float holds.
_LARGEST_EXPONENT = 700


def check_parameter(name: str, entry: Any) -> None:
    """Whether an entry of ``parameters`` is one that W&B can draw from.

    Raises:
        ValueError: it is not; the words begin with ``name``.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{name} must hold value, values or a distribution, got {entry!r}")
    if "parameters" in entry:
        first = next(iter(entry["parameters"]), "KEY") if isinstance(entry["parameters"], dict) else "KEY"
        raise ValueError(
            f"{name} must not be nested, for it would reach no object; write dotted keys, such as "
            f"{name.partition('.')[2]}.{first}"
        )
    distribution = distribution_of(name, entry)
    needs, may = DISTRIBUTIONS[distribution]
    given = set(entry) - {"distribution"}
    if missing := needs - given:
        raise ValueError(f"{name}: {distribution} needs {' and '.join(sorted(missing))}, got {entry}")
    if others := given - needs - may:
        key = str(min(others, key=str))
        raise ValueError(f"{name}: {distribution} must have only {', '.join(sorted(needs | may))}, got {key!r}")
    for key in set(_NUMBERS) & given:
        _check_number(f"{name}.{key}", entry[key], key in _POSITIVE)
    if "min" in needs:
        _check_limits(name, distribution, entry["min"], entry["max"])
    if "values" in needs:
        _check_values(name, entry)
    if "value" in needs:
        check_value(f"{name}.value", entry["value"])


def distribution_of(name: str, entry: Mapping[str, Any]) -> str:
    """The distribution that an entry names, or that W&B takes for it."""
    if "distribution" in entry:
        given = entry["distribution"]
        if not isinstance(given, str) or given not in DISTRIBUTIONS:
            words = ", ".join(DISTRIBUTIONS)
            raise ValueError(f"{name}.distribution must be one of {words}, got {given!r}{near(given, DISTRIBUTIONS)}")
        return given
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical_w_probabilities" if "probabilities" in entry else "categorical"
    if "min" in entry or "max" in entry:
        return "int_uniform" if all(type(entry.get(key)) is int for key in ("min", "max")) else "uniform"
    if {"mu", "sigma"} & set(entry):
        return "normal"
    raise ValueError(f"{name} must hold value, values, min and max, or a distribution, got {entry}")


def near(word: Any, known: Sequence[str] | Mapping[str, Any]) -> str:
    """A question about a name that was meant, where there is one like it."""
    close = get_close_matches(str(word), list(known), 1, 0.7)
    return f"; did you mean {close[0]}?" if close else ""


def check_value(name: str, value: Any) -> None:
    """Whether a value reaches the command line, and the record of the trial, as what it is.

    Raises:
        ValueError: it does not.
    """
    if isinstance(value, list):
        for part in value:
            check_value(name, part)
    elif isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{name} must have texts for keys, got {key!r}")
            check_value(name, part)
    elif value is None:
        raise ValueError(f"{name} must not be null, which an agent writes as the word None; write the text 'null'")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    elif not isinstance(value, str | int | float):
        raise ValueError(f"{name} must be numbers, texts, true or false, got a {type(value).__name__}: quote {value}")


def _check_number(name: str, value: Any, is_positive: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (is_positive and value <= 0):
        # YAML takes 1e-5 for a text.
        cure = "; write 1.0e-5 for 1e-5, which is a text in YAML" if isinstance(value, str) else ""
        raise ValueError(f"{name} must be a {'positive ' if is_positive else ''}number, got {value!r}{cure}")


def _check_limits(name: str, distribution: str, low: float, high: float) -> None:
    if distribution == "int_uniform" and not all(type(limit) is int for limit in (low, high)):
        raise ValueError(f"{name}: min and max of int_uniform must be whole, got {low} and {high}")
    if low > high:
        raise ValueError(f"{name}: min must be at most max, got {low} and {high}; exchange them")
    if low == high and distribution != "int_uniform":
        raise ValueError(f"{name}: min must be below max, got {low} twice; write value: {low}")
    if distribution.endswith("_values") and low <= 0:
        raise ValueError(f"{name}: min of {distribution} must be positive, got {low}")
    if "log_uniform" in distribution and not distribution.endswith("_values") and high > _LARGEST_EXPONENT:
        raise ValueError(
            f"{name}: min and max of {distribution} must be exponents of e, got {high}; "
            f"for limits of the values themselves write {distribution}_values"
        )


def _check_values(name: str, entry: Mapping[str, Any]) -> None:
    values = entry["values"]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{name}.values must be a list with at least one value, got {values!r}")
    for value in values:
        check_value(f"{name}.values", value)
    if "probabilities" not in entry:
        return
    shares = entry["probabilities"]
    if not isinstance(shares, list) or len(shares) != len(values):
        raise ValueError(f"{name}.probabilities must be a list of {len(values)}, one for each value, got {shares!r}")
    for share in shares:
        _check_number(f"{name}.probabilities", share, is_positive=False)
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-3:
        raise ValueError(
            f"{name}.probabilities must be at least 0 and sum to 1, got {shares}, whose sum is {sum(shares):g}"
        )
