"""What the slopes say in words."""

from __future__ import annotations

from typing import Any

from probediff.whitening.analysis import slope_in_words


def test_the_sentence() -> None:
    def rows(*slopes: float | None, known: float = 0.9) -> list[dict[str, Any]]:
        return [
            {
                "iterations": 10**k,
                "model": {
                    **{"slope": s, "significant_share": known, "zca_r2_scaled": 0.25},
                    **{"zca_r2": 0.05, "noise_rms": 28.36},
                },
                "gaussian": {"slope": -0.1},
            }
            for k, s in enumerate(slopes)
        ]

    assert "nearest to -0.5, ZCA whitening. ZCA whitening at its best scale explains 25% of" in slope_in_words(
        rows(-0.1, -0.6), 0.98
    )
    assert "as it is, its R² is 0.05, for the noises have an rms of 28.4 and not the 1 of" in slope_in_words(
        rows(-0.6), 0.98
    )
    assert "goes from -0.10 to -0.60" in slope_in_words(rows(-0.1, -0.6), 0.98)
    assert "nearest to -1, the inverse covariance" in slope_in_words(rows(-0.9, -0.91), 0.98)
    assert "It is the same from 1 iterations on" in slope_in_words(rows(-0.9, -0.91), 0.98)
    assert "nearest to 0, a multiple" in slope_in_words(rows(-0.2), 0.9)
    assert "says nothing" in slope_in_words(rows(-0.5, known=0.1), 0.98)
    assert "Too few directions" in slope_in_words(rows(-0.1, None), 0.98)
