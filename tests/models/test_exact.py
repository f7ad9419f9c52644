"""Exact denoisers of a run's images by name: what the names say, and what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from probediff.denoisers import SmoothedEmpiricalDenoiser, analytic_denoiser
from probediff.measures import moments
from probediff.models import fit_gaussian, load_checkpoint_model
from probediff.models.exact import ExactModel, is_exact, load_exact
from probediff.models.source import ModelChoice, find_source
from probediff.runs.conditions import all_differing_settings
from probediff.schedule import NoiseSchedule
from tests.models.test_baseline import digits
from tests.models.tiny_run import change_config, eps_of

NAMES = st.text("abz_-=.,0 ", min_size=1, max_size=12)


def parsed(options: str) -> ExactModel:
    return ExactModel.parse(f"exact:runs/a{options}")


def test_what_a_name_says() -> None:
    assert parsed(",h=0.4") == ExactModel(Path("runs/a"), options={"h": 0.4})
    everything = parsed(",images=500,dropped_weight=1e-6,h=1,denoiser=smoothed_empirical")
    assert everything == ExactModel(Path("runs/a"), num_images=500, options={"h": 1.0, "dropped_weight": 1e-6})
    names = [parsed(options).name for options in (",h=0.40", ",h=0", ",h=1", ",images=500,h=.3")]
    assert names == ["exact-h=0.4", "exact-h=0", "exact-h=1", "exact-h=0.3,images=500"]
    assert everything.name == "exact-h=1,dropped_weight=1e-06,images=500"
    assert is_exact("exact:runs/a") and is_exact("gaussian:runs/a") and not is_exact("runs/exact:")


@given(NAMES, st.sampled_from(["", ",images=5", ",dropped_weight=0.1"]))
def test_a_folder_may_hold_commas(tmp_path_factory: pytest.TempPathFactory, name: str, others: str) -> None:
    run = tmp_path_factory.mktemp("runs") / f"r{name}" / f"seed=1,h={name}"
    run.mkdir(parents=True)
    exact = ExactModel.parse(f"exact:{run},h=0.5{others}")
    assert (exact.run, exact.options["h"]) == (run, 0.5)


def test_results_may_lie_beside_the_run_in_a_folder_of_the_whole_name(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "run,h=0.5").mkdir()
    assert ExactModel.parse(f"exact:{tmp_path}/run,h=0.5") == ExactModel(tmp_path / "run", options={"h": 0.5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "must say which exact denoiser, got none: give its bandwidth with ,h=0.4"),
        (",images=5", "must say which exact denoiser, got none"),
        (",h=1.5", "h must lie in [0, 1], got 1.5"),
        (",h=-0.1", "h must lie in [0, 1], got -0.1"),
        (",h=nan", "h must lie in [0, 1], got nan"),
        (",h=half", "h must lie in [0, 1], got 'half'"),
        (",h=0.4,images=1", "images must lie in 2, 3, ..., got 1"),
        (",h=0.4,images=2.5", "images must lie in 2, 3, ..., got 2.5"),
        (",h=0.4,dropped_weight=1", "dropped_weight must lie in [0, 1), got 1"),
        (
            ",denoiser=network,h=0.4",
            "denoiser=KIND must be one of smoothed_empirical, wiener, optimal, nearest, local, equivariant, ",
        ),
        (",h=0.4,bandwidth=3", "must be among denoiser, images, schedule, h, dropped_weight, got 'bandwidth'"),
        (",h=0.4,h=0.5", "got 'h=0.5' twice"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        parsed(options)
    assert "\n" not in str(error.value)


def test_what_is_no_option_is_refused_where_the_run_is_known(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"KEY among denoiser, images, schedule, h, dropped_weight, patch_size, .*, got '0.4'"
    ):
        ExactModel.parse(f"exact:{tmp_path},0.4")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("optimal", ""), ("local", ",patch_size=3"), ("equivariant", ",border=zeros"), ("pca_locality", "")],
)
def test_analytic_denoisers_have_names_too(finished: Path, kind: str, options: str) -> None:
    exact = ExactModel.parse(f"exact:{finished},denoiser={kind},images=20{options}")
    given = {"local": {"patch_size": 3}, "equivariant": {"border": "zeros"}}.get(kind, {})
    assert exact.name == f"exact-{','.join([kind, *options[1:].split(',')])},images=20".replace(",,", ",")
    model = exact.load()
    statistics = moments([digits(1797)])
    expected = analytic_denoiser(kind, digits(20), NoiseSchedule.cosine(40), statistics=statistics, **given)
    torch.testing.assert_close(eps_of(model.eps_model), eps_of(expected), rtol=0, atol=1e-6)
    assert (model.conventions["denoiser"], model.conventions["fitted_to"]) == (kind, 20)
    assert given.items() <= model.conventions.items()


def test_options_of_another_kind_are_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match="must be among denoiser, images, schedule, patch_size, got 'h'"):
        ExactModel.parse(f"exact:{finished},denoiser=local,h=0.4")
    with pytest.raises(ValueError, match=r"patch_size must be an odd number of pixels.*got 4"):
        ExactModel.parse(f"exact:{finished},denoiser=local,patch_size=4").load()


def test_it_is_fitted_to_the_images_of_the_run(finished: Path) -> None:
    model = ExactModel.parse(f"exact:{finished},h=0.4,images=300").load()
    schedule = NoiseSchedule.cosine(40)
    expected = SmoothedEmpiricalDenoiser(digits(300), 0.4, schedule, statistics=moments([digits(1797)]))
    torch.testing.assert_close(eps_of(model.eps_model), eps_of(expected), rtol=0, atol=1e-5)
    assert (model.step, model.image_shape, model.clip) == (0, (1, 8, 8), True)
    said = {
        **{
            "denoiser": "smoothed_empirical",
            "bandwidth": 0.4,
            "fitted_to": 300,
            "mirrored": False,
            "statistics_of": 1797,
        },
        **{"dropped_weight": 0.0, "covariance_divisor": "statistics_of - 1", "ema_rate": None, "dtype": "float32"},
    }
    assert model.conventions == load_checkpoint_model(finished).conventions | said
    with pytest.raises(ValueError, match=r"images must lie in 2..1797.*got 1798"):
        ExactModel.parse(f"exact:{finished},h=0.4,images=1798").load()


def test_h_1_is_the_gaussian(finished: Path) -> None:
    name, gaussian = load_exact(f"gaussian:{finished}")
    _, whole = load_exact(f"exact:{finished},h=1")
    assert (name, gaussian.digest, gaussian.conventions["denoiser"]) == ("gaussian", whole.digest, "gaussian")
    assert gaussian.digest == fit_gaussian(finished).digest
    family = SmoothedEmpiricalDenoiser(digits(), 1.0, NoiseSchedule.cosine(40))
    torch.testing.assert_close(eps_of(whole.eps_model), eps_of(family), rtol=0, atol=2e-4)
    assert whole.conventions["bandwidth"] == 1


@pytest.mark.parametrize("options", ["h=1", "h=0.4,images=300"])
def test_another_schedule_than_the_runs(finished: Path, options: str) -> None:
    spec = f"exact:{finished},{options},schedule=scaled_linear"
    model, of_run = ExactModel.parse(spec).load(), ExactModel.parse(f"exact:{finished},{options}").load()
    schedule = NoiseSchedule.scaled_linear(40)
    assert torch.equal(model.schedule.alpha_bar, schedule.alpha_bar)
    assert (model.conventions["schedule"], of_run.conventions["schedule"]) == ("scaled_linear", "cosine")
    assert ExactModel.parse(spec).name == f"exact-{options},schedule=scaled_linear"
    h, images = (1.0, digits()) if options == "h=1" else (0.4, digits(300))
    expected = SmoothedEmpiricalDenoiser(images, h, schedule, statistics=moments([digits(1797)]))
    torch.testing.assert_close(eps_of(model.eps_model), eps_of(expected), rtol=0, atol=2e-4)
    with pytest.raises(ValueError, match=r"schedule=NAME must be one of cosine, linear, scaled_linear, got 'sqrt'"):
        ExactModel.parse(f"exact:{finished},{options},schedule=sqrt")


def test_two_bandwidths_are_told_apart_though_their_tensors_are_the_same(finished: Path) -> None:
    a, b = (ExactModel.parse(f"exact:{finished},h={h},images=50").load() for h in (0.3, 0.4))
    assert a.digest == b.digest
    assert all_differing_settings(a.conventions, b.conventions) == {"bandwidth": (0.3, 0.4)}


def test_mirror_images_count_where_the_run_flips(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    change_config(run, model=config["model"] | {"random_flip": True})
    for h in (0.4, 1):
        model = ExactModel.parse(f"exact:{run},h={h},images=200").load()
        x, timestep = torch.randn(5, 1, 8, 8), torch.tensor([0, 7, 20, 38, 39])
        mirrored = model.eps_model(x.flip(-1), timestep).flip(-1)
        torch.testing.assert_close(model.eps_model(x, timestep), mirrored, rtol=0, atol=2e-4)
        assert model.conventions["mirrored"] is True


def test_what_does_not_fit_is_refused_before_the_images_are_read(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probediff.files.capacity.memory_bytes", lambda: 2**16)
    monkeypatch.setattr("probediff.models.baseline.RunImages.read", pytest.fail)
    with pytest.raises(ValueError, match=r"images must fit into the .* got 1797.*fit it to fewer, with ,images=M"):
        ExactModel.parse(f"exact:{finished},h=0.4").load()


@pytest.mark.parametrize("name", ["exact:{},h=1", "gaussian:{}", "exact:{},h=0.4,images=50"])
def test_the_basis_must_fit_too(finished: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Four matrices of 64 x 64 numbers are 128 KiB."""
    monkeypatch.setattr("probediff.files.capacity.memory_bytes", lambda: 2**16)
    monkeypatch.setattr("probediff.models.baseline.image_moments", pytest.fail)
    with pytest.raises(ValueError, match=r"must fit into the .* memory of this machine, got"):
        load_exact(name.format(finished))
    load_exact(f"exact:{finished},denoiser=optimal,images=50")


def test_a_source_of_its_own(finished: Path) -> None:
    source = find_source(ModelChoice(f"exact:{finished},h=0.4,images=50"))
    assert (source.steps, source.run, source.is_exact) == ([0], finished, True)
    assert source.out == finished / "probes" / "exact-h=0.4,images=50"
    with pytest.raises(ValueError, match=r"--weights must be left out for exact:.*, an exact denoiser, .* got 'raw'"):
        find_source(ModelChoice(f"exact:{finished},h=0.4", weights="raw"))


@pytest.mark.parametrize("spec", ["exact:nowhere,h=0.4", "exact:cifar10_uncond_50M_500K.pt,h=0.4", "gaussian:nowhere"])
def test_there_must_be_a_run(spec: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be the folder of a run of `probediff fit`, got no config.yaml"):
        find_source(ModelChoice(spec))


def test_a_run_of_ones_own_module_does_not_say_its_images(run: Path) -> None:
    change_config(run, module={"class_path": "mine.Module"})
    with pytest.raises(ValueError, match="does not say which images it was trained on"):
        find_source(ModelChoice(f"exact:{run},h=0.4"))
