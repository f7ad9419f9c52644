"""Verdicts on what the commands themselves record: every number has its name and its error."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from probediff.__main__ import main
from tests.report.verdict_runs import KEYS, OF_EXACT, judged, outcomes

#: Numbers whose errors are not recorded: of correlations, where there are few samples.
_WITHOUT_ERRORS = {"mean of the ten largest |r| of latents"}
#: The tiny run has few steps of sampling and of training, and no noise misses its image there.
_WITHOUT_NUMBERS = {"P1-F5a", "P1-F5b", "P1-T2a", "C-F6"}
_SEARCH = ["--ridge", "1e-2", "--num_iterations", "30", "--num_chains", "2"]


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and below it what every command leaves there."""
    folder = tmp_path_factory.mktemp("real")
    run, exact, images = folder / "run", f"exact:{folder / 'run'},h=0.4", folder / "images"
    shutil.copytree(tiny_run, run)
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (10, 8, 8), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(images / f"{k}.png")
    analysis = ["--iterations", "1,5", "--num_steps", "4", "--num_samples", "20", "--num_shown", "3", "--ridge", "1e-2"]
    edits = ["--num_steps", "2", "--strengths", "0.5", "--noises", "random,found", "--run", str(run), *_SEARCH]
    commands = [
        ["probe", str(run), "--samples", "final"],
        ["probe", str(run), "--checkpoints", "last", "--num_steps", "2,20"],
        ["probe", exact],
        *(["whitening", model, "--num_fixed_points", "80", *analysis] for model in (str(run), exact)),
        *(["edit", str(images), "--model", model, *edits] for model in (str(run), exact)),
    ]
    for loss in ("forward", "baseline", "backward"):
        found = run / "probes" / f"found-{loss}"
        commands += [
            ["search-noise", str(images), "--run", str(run), "--loss", loss, "--out", str(found), *_SEARCH],
            ["vary", str(found / "noises.safetensors"), str(run), exact, "--num_steps", "2",
             "--out", str(run / "probes" / f"vary-{loss}")],
        ]  # fmt: skip
    assert [main(command) for command in commands] == [0] * len(commands)
    return run


def test_every_number_is_found_with_its_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tiny run was probed at its middle, which is late.
    monkeypatch.setattr("probediff.report.verdicts.p1_inversion._KNOWN_FROM", 1.0)
    found = judged(run)
    by_key = outcomes(found)
    missing = {key for key in KEYS if any(claim.number is None for claim in by_key[key].claims)}
    assert missing == _WITHOUT_NUMBERS
    known = [claim for outcome in by_key.values() for claim in outcome.claims if claim.number is not None]
    without = {claim.quantity for claim in known if claim.number is not None and claim.number.error is None}
    assert without == _WITHOUT_ERRORS
    assert not any("do not fit" in outcome.reason for outcome in by_key.values())


def test_so_are_those_of_an_exact_denoiser(run: Path) -> None:
    (exact,) = judged(run).exact
    assert exact.label == "h = 0.4" and [outcome.statement.key for outcome in exact.outcomes] == OF_EXACT
    missing = {o.statement.key for o in exact.outcomes if any(claim.number is None for claim in o.claims)}
    # Other numbers of steps were not asked of it.
    assert missing == {"P1-T2a", "P1-T2b"}
