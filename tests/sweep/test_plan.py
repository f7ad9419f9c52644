"""The plan of a local sweep: what it was made from is compared, and a damaged one is refused."""

from pathlib import Path

import pytest

from probediff.sweep.file import SweepFile
from probediff.sweep.plan import settle_plan


def sweep_of(seeds: list[int], config: Path = Path("none.yaml")) -> SweepFile:
    parameters = {"seed_everything": {"values": seeds}}
    return SweepFile("seeds", "grid", ("fit", f"--config={config}", "${args}"), parameters)


def test_nothing_is_written_before_it_is_kept(tmp_path: Path) -> None:
    plan = settle_plan(sweep_of([1, 2]), tmp_path)
    assert not list(tmp_path.iterdir())
    plan.keep()
    assert settle_plan(sweep_of([1, 2]), tmp_path) == plan


def test_another_sweep_or_configuration_needs_a_new_folder(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("a: 1")
    settle_plan(sweep_of([1], config), tmp_path).keep()
    with pytest.raises(ValueError, match=r"plan.json was made from .* \(parameters differ\); put it back, or give"):
        settle_plan(sweep_of([2], config), tmp_path)
    config.write_text("a: 2")
    with pytest.raises(ValueError, match=rf"\({config} differ\)"):
        settle_plan(sweep_of([1], config), tmp_path)
    config.unlink()
    with pytest.raises(ValueError, match=rf"\({config} differ\)"):
        settle_plan(sweep_of([1], config), tmp_path)


def test_what_is_started_is_what_the_sweep_file_says(tmp_path: Path) -> None:
    """Not what somebody wrote into the plan of a folder that was downloaded."""
    settle_plan(sweep_of([1]), tmp_path).keep()
    plan = tmp_path / "plan.json"
    before, _, after = plan.read_text().rpartition('"fit"')
    plan.write_text(f'{before}"rm"{after}')
    with pytest.raises(ValueError, match=r"plan.json was made from .* \(trials differ\); put it back, or give"):
        settle_plan(sweep_of([1]), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "3", '{"made_from": null}', '{"made_from": {}, "trials": []}'),
        '{"made_from": {}, "trials": [3]}',
        '{"made_from": {}, "trials": [{"name": "a", "values": {}}]}',
        '{"made_from": {}, "trials": [{"name": "a", "values": {}, "command": []}]}',
    ],
)
def test_a_damaged_plan(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan.json must hold the plan of a sweep, got a damaged file .* restore it"):
        settle_plan(sweep_of([1]), tmp_path)
