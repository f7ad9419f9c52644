"""The probe of a denoiser's structure: exact networks say what they are, untrained ones nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from torch import Tensor

from probediff.callbacks import DenoiserStructure, InversionAngles
from probediff.callbacks.exact_images import BANDWIDTHS, find_levels
from probediff.callbacks.trained_model import known_images
from probediff.commands.options import available_probes
from probediff.commands.probe import probe as probe_command
from probediff.data import Digits
from probediff.denoisers import GaussianDenoiser, SmoothedEmpiricalDenoiser
from probediff.models.base import ProbeModel
from probediff.probing import PassSettings, ProbePass, ProbeResult
from probediff.probing.probe import ProbeContext, TrainingImages
from probediff.runs.folder import RunFolder
from probediff.schedule import NoiseSchedule
from tests.conftest import TINY_RUN, fit_command, tiny_module

Fit = Callable[..., tuple[Any, L.Trainer]]
ROOT = Path(__file__).parents[2]
SHAPE = (1, 8, 8)
SCHEDULE = NoiseSchedule.cosine(1000)
DIGITS = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
SEEN, UNSEEN = DIGITS[:300], DIGITS[300:]
FAMILY = SmoothedEmpiricalDenoiser(SEEN, 0.0, SCHEDULE)
LEVELS = [0.1, 0.5, 2.0, 10.0]


def real_images(count: int) -> Tensor:
    return SEEN[:count]


def unseen(count: int) -> Tensor:
    return UNSEEN[:count]


TRAINING = TrainingImages(False, unseen)


def context(folder: Path, **options: Any) -> ProbeContext:
    given = {"real_images": real_images, "training": TRAINING, "schedule": SCHEDULE}
    return ProbeContext(PassSettings(), SHAPE, RunFolder(folder), **(given | options))


def pass_of(network: torch.nn.Module, schedule: NoiseSchedule = SCHEDULE, **settings: Any) -> ProbePass:
    model, none = ProbeModel(network.requires_grad_(False), schedule, SHAPE, 7, {}), torch.zeros(0, *SHAPE)
    return ProbePass(7, PassSettings(**settings), none, none, None, model=model)


class Untrained(torch.nn.Conv2d):
    """A network as it is made; `probediff.denoisers.UNet` predicts zero then."""

    def __init__(self, scale: float) -> None:
        super().__init__(1, 1, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.scale * super().forward(x)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> DenoiserStructure:
    made = DenoiserStructure(enabled=True, num_images=30, sigmas=LEVELS)
    made.check(context(tmp_path_factory.mktemp("run")))
    return made


def levels_of(result: ProbeResult) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in result.validate().table("levels").items()}


def test_the_gaussian_denoiser_is_linear_and_memorises_nothing(probe: DenoiserStructure) -> None:
    result = probe.measure(pass_of(GaussianDenoiser.fit(SEEN, SCHEDULE)))
    levels = levels_of(result)
    assert levels["bandwidth"] == levels["bandwidth_low"] == levels["bandwidth_high"] == [1] * 8
    assert levels["linear_share"] == pytest.approx([1] * 8, abs=1e-6)
    assert levels["score_gaussian"] + levels["image_gaussian"] == pytest.approx([1] * 16, abs=1e-6)
    assert levels["gap_excess"][:4] == pytest.approx([0] * 4, abs=1e-4)
    assert all(lead > 2 for lead in levels["gaussian_lead"])
    assert result.values["bandwidth"] == 1 and result.values["num_levels_identified"] == 4
    assert result.values["linear_share"] == pytest.approx(1)
    assert result.values["memorisation_gap"] == pytest.approx(result.values["memorisation_gap_null"], abs=1e-4)


@pytest.mark.parametrize("h", [0.0, 0.3, 0.35, 0.7])
def test_an_exact_denoiser_says_its_bandwidth(probe: DenoiserStructure, h: float) -> None:
    result = probe.measure(pass_of(FAMILY.with_bandwidth(h)))
    levels = levels_of(result)
    for value, low, high in zip(*(levels[f"bandwidth{end}"] for end in ("", "_low", "_high")), strict=True):
        assert low <= h <= high and high - low < 0.16
        assert value == pytest.approx(h, abs=0.04)
    if h in BANDWIDTHS:
        assert levels["bandwidth"] == levels["bandwidth_low"] == levels["bandwidth_high"] == [h] * 8
    assert result.values["bandwidth"] == pytest.approx(h, abs=0.01)
    # What it knows of its training images the Gaussian does not.
    assert result.values["memorisation_excess"] > 2 * result.values["memorisation_excess_error"]


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_an_untrained_network_explains_nothing(probe: DenoiserStructure, scale: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        result = probe.measure(pass_of(Untrained(scale)))
    levels = levels_of(result)
    assert max(levels["r2"]) <= 0
    assert levels["bandwidth_identified"] == [0] * 8
    assert levels["bandwidth_low"] == [0] * 8 and levels["bandwidth_high"] == [1] * 8
    assert result.values["num_levels_identified"] == 0 and math.isnan(result.values["bandwidth"])
    if scale == 0:
        assert all(map(math.isnan, levels["score_gaussian"]))


def test_the_gap_that_stands_for_all_is_the_clearest_one(probe: DenoiserStructure) -> None:
    result = probe.measure(pass_of(FAMILY.with_bandwidth(0.2)))
    levels, values = levels_of(result), result.values
    errors = [a / b for a, b in zip(levels["gap_excess"][:4], levels["gap_excess_error"][:4], strict=True)]
    clearest = errors.index(max(errors))
    assert values["memorisation_sigma"] == levels["sigma"][clearest]
    assert values["memorisation_excess"] == levels["gap_excess"][clearest]
    assert values["memorisation_gap_complete"] == levels["gap_training_set"][clearest]
    assert values["memorisation_z_sigma_0.1"] == pytest.approx(errors[0])


def test_exact_denoisers_are_asked_at_the_first_event_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    predict = SmoothedEmpiricalDenoiser.predict

    def counted(self: SmoothedEmpiricalDenoiser, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(self.bandwidth)
        return predict(self, x, timestep)

    monkeypatch.setattr(SmoothedEmpiricalDenoiser, "predict", counted)
    probe = DenoiserStructure(enabled=True, num_images=4, num_training_images=50, sigmas=[1, 10])
    probe.check(context(tmp_path))
    event = pass_of(Untrained(1.0))
    first = probe.measure(event)
    assert asked == list(BANDWIDTHS)
    probe.check(context(tmp_path))
    again = probe.measure(event)
    assert len(asked) == 7 and list(first.seconds) == ["exact"] and again.seconds == {}
    assert again.values == pytest.approx(first.values, nan_ok=True, abs=0)
    assert first.values["num_training_images"] == 50
    assert probe.measure(pass_of(Untrained(1.0), noise_seed=1)).values != first.values and len(asked) == 14
    probe.check(context(tmp_path, training=None))
    assert probe.measure(event).seconds and len(asked) == 21


def test_images_that_are_not_known_to_be_trained_on_tell_nothing_of_memorisation(tmp_path: Path) -> None:
    probe = DenoiserStructure(enabled=True, num_images=4, sigmas=[1])
    probe.check(context(tmp_path, training=None))
    result = probe.measure(pass_of(Untrained(1.0)))
    assert result.values["of_training_images"] == 0 and math.isnan(result.values["mirrored"])
    assert result.values["num_held_out_images"] == 0
    assert not any("memorisation" in key for key in result.values) and levels_of(result)["held_out"] == [0]


def test_mirror_images_count_where_training_flips(tmp_path: Path) -> None:
    both = torch.cat([SEEN, SEEN.flip(-1)])
    event = pass_of(GaussianDenoiser.fit(both, SCHEDULE))
    for mirrored in (True, False):
        probe = DenoiserStructure(enabled=True, num_images=20, sigmas=[0.1])
        probe.check(context(tmp_path, training=TrainingImages(mirrored)))
        values = probe.measure(event).values
        assert values["mirrored"] == mirrored
        # But for the divisor of the covariance.
        assert (values["linear_share"] > 0.9999) == mirrored


def test_levels_that_the_schedule_lacks_are_left_out(tmp_path: Path) -> None:
    short = NoiseSchedule.cosine(40)
    there = ((1 - short.alpha_bar) / short.alpha_bar).sqrt()
    asked = [1e-3, 0.1, 0.5, 1.0, 20.0, 1e6]
    levels = find_levels(short, asked)
    nearest = [min(there.tolist(), key=lambda sigma: abs(math.log(sigma / wanted))) for wanted in asked]
    assert [level.asked for level in levels] == [
        wanted for wanted, sigma in zip(asked, nearest, strict=True) if 1 / 1.1 <= sigma / wanted <= 1.1
    ]
    assert 1 <= len(levels) < 6
    assert all(level.sigma == float(there[level.timestep]) for level in levels)
    probe = DenoiserStructure(enabled=True, num_images=4, sigmas=[1e-3, 0.5])
    probe.check(context(tmp_path, schedule=short))
    values = probe.measure(pass_of(Untrained(1.0), short)).values
    assert (values["num_levels"], values["num_levels_left_out"]) == (1, 1)
    assert {"bandwidth_sigma_0.5", "held_out_bandwidth_sigma_0.5"} <= values.keys()
    assert "bandwidth_sigma_0.001" not in values


def test_the_network_is_asked_little(probe: DenoiserStructure) -> None:
    """Under a twentieth of what an event of cifar10_small asks it anyway."""
    config = yaml.safe_load((ROOT / "configs" / "cifar10_small.yaml").read_text())
    settings = PassSettings(**config["probing"]["settings"])
    assert config["denoiser_structure"] == {"enabled": True}
    default = DenoiserStructure()
    asked = 2 * default.num_images * len(default.sigmas)
    assert asked <= 0.05 * settings.num_samples * sum(settings.inversion.evaluations(settings.num_steps))
    values = probe.measure(pass_of(Untrained(1.0))).values
    assert values["num_network_evaluations"] == 2 * 30 * len(LEVELS)
    levels = find_levels(NoiseSchedule.cosine(4000), default.sigmas)
    assert [level.asked for level in levels] == default.sigmas


def test_the_noises_are_the_same_for_every_batch_size(probe: DenoiserStructure) -> None:
    network = FAMILY.with_bandwidth(0.4)
    one, other = (probe.measure(pass_of(network, batch_size=size)).values for size in (7, 128))
    assert one == pytest.approx(other, nan_ok=True, rel=1e-5, abs=1e-6)


def test_a_run_records_it_and_trains_as_without(fit: Fit, tmp_path: Path) -> None:
    probe = DenoiserStructure(enabled=True, num_images=5, num_training_images=100, sigmas=[0.5, 1.0])
    module, _ = fit([probe, InversionAngles(num_shown=2)])
    records = RunFolder(tmp_path / "run").records()
    found = [r for r in records if r["probe"] == "denoiser_structure"]
    assert [r["step"] for r in found] == [0, 2, 5] and not any("error" in r for r in found)
    assert all(r["values"]["of_training_images"] == 1 and r["values"]["mirrored"] == 0 for r in found)
    times = [r["values"] for r in records if r["probe"] == "timing"]
    assert [t.get("denoiser_structure_exact_seconds", 0) > 0 for t in times] == [True, False, False]
    plain, _ = fit([], default_root_dir=tmp_path / "other")
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_command_finds_what_the_run_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [*TINY_RUN, "--denoiser_structure.num_images=5", "--trainer.max_steps=2", "--model.random_flip=true"]
    probes = [f"--{name}.enabled={str(name == 'denoiser_structure').lower()}" for name in available_probes()]
    run, config = tmp_path / "run", str(ROOT / "configs" / "digits.yaml")
    assert fit_command(["--config", config, *quick, *probes, "--run_dir", str(run)]) == 0
    assert probe_command([str(run), "--device=cpu", "--progress=false"]) == 0
    there = [r for r in RunFolder(run).records() if r["probe"] == "denoiser_structure"]
    replay = RunFolder(run / "probes" / "replay" / "num_steps=0008").records()
    here = [r for r in replay if r["probe"] == "denoiser_structure"]
    assert [r["values"] for r in here] == [r["values"] for r in there] and len(there) == 2
    assert there[0]["values"]["mirrored"] == 1
    assert "have exactly the numbers" in capsys.readouterr().out


def test_what_is_known_of_the_images(tmp_path: Path) -> None:
    trainer = L.Trainer(logger=False, default_root_dir=tmp_path, accelerator="cpu", enable_checkpointing=False)
    assert known_images(trainer, tiny_module(), None) == (None, None)
    trainer.datamodule = Digits()  # type: ignore[attr-defined]
    _, training = known_images(trainer, tiny_module(random_flip=True), None)
    assert training is not None and training.mirrored and training.held_out(3) is None
    _, training = known_images(trainer, L.LightningModule(), None)
    assert training is not None and training.mirrored is None
    assert known_images(trainer, tiny_module(), real_images) == (real_images, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 1}, "denoiser_structure.num_images must be at least 2, got 1"),
        ({"num_training_images": 1}, "denoiser_structure.num_training_images must be at least 2, got 1"),
        ({"sigmas": []}, r"denoiser_structure.sigmas must be noise levels above 0 that ascend, got \[\]"),
        ({"sigmas": [1.0, 0.5]}, r"got \[1.0, 0.5\]; such as"),
        ({"sigmas": [0.0]}, "above 0"),
        ({"sigmas": [math.nan]}, "above 0"),
    ],
)
def test_settings_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenoiserStructure(**options)


def missing(count: int) -> Tensor:
    raise FileNotFoundError("arrays: there is no file images.npy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_images": None}, "needs real images, got a run without a data set; set --denoiser_structure.enabled"),
        ({"real_images": missing}, "no file images.npy; or set --denoiser_structure.enabled false"),
        ({"real_images": lambda n: SEEN[:n, :, :4]}, r"in the shape of .* \(1, 8, 8\), got \(1, 4, 8\); set --"),
        ({"training": TrainingImages(held_out=lambda n: SEEN[:n, :, :4])}, r"got \(1, 4, 8\); set --"),
        ({"real_images": lambda n: SEEN[:1]}, "at least 2 images, got 1; give more, or set --"),
        ({"schedule": NoiseSchedule(torch.full((3,), 0.9999))}, "sigmas must be noise levels of the schedule, which"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    assert not DenoiserStructure().enabled
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DenoiserStructure(sigmas=[0.5]).check(context(tmp_path, **options))


def test_it_needs_a_network() -> None:
    with pytest.raises(ValueError, match="needs a pass that can ask the network"):
        DenoiserStructure().measure(pass_of(Untrained(1.0)))
