"""A network, an optimiser and a schedule of one's own: what docs/train.md shows, trained, probed and gone on with."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from probediff.__main__ import main
from probediff.commands.edit import edit
from probediff.commands.inversions import inversions
from probediff.commands.probe import probe
from probediff.commands.search_noise import search_noise
from probediff.commands.whitening import whitening
from probediff.models import load_checkpoint_model
from probediff.probing.replay import compare_with_run
from probediff.runs.folder import RunFolder
from probediff.training.checkpoints import keep_weights_only
from probediff.training.module import DiffusionModule
from tests.commands.test_resume import assert_same_tensors
from tests.conftest import ROOT, TINY_RUN, make_once
from tests.models.tiny_run import change_config
from tests.test_documentation import blocks, typed_commands

#: What makes the runs of the page tiny; they have no U-Net of probediff's.
TINY = [option for option in TINY_RUN if not option.startswith("--network")]
TINY += ["--checkpoint_similarity.enabled=false", "--pixel_correlation.enabled=false"]
NETWORK, *_ = blocks(ROOT / "docs" / "train.md", "python")
DIT, DIFFUSERS = [
    words for page, words in typed_commands() if page == "docs/train.md" and "--network" in words and words[0] == "fit"
]
TRUST = "must be probediff's U-Net, got the class 'net.TinyDiT', which would be imported and run; give --trust"


def fit(words: list[str], run: Path, *options: str) -> int:
    """A ``fit`` of the page, tiny, with its run elsewhere."""
    words = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
    if "--run_dir" in words:
        place = words.index("--run_dir")
        words = words[:place] + words[place + 2 :]
    return main([*words, *TINY, "--run_dir", str(run), *options])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the file of the page in it; as for an installed command Python does not look there."""
    (tmp_path / "net.py").write_text(NETWORK)
    sys.modules.pop("net", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield tmp_path
    sys.modules.pop("net", None)


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The run of the page, for four steps; its file is not imported any more."""

    def make(path: Path) -> None:
        assert fit(DIT, path) == 0

    made = make_once(tmp_path_factory, "dit", make)
    sys.modules.pop("net", None)
    sys.path[:] = [path for path in sys.path if path != str(folder)]
    return made


def test_the_page_s_network_is_trained_and_probed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["network"] == {
        "class_path": "net.TinyDiT",
        "init_args": {"size": 8, "channels": 1, "patch": 2, "width": 64, "depth": 2, "heads": 4},
    }
    assert config["optimizer"]["class_path"] == "torch.optim.SGD"
    assert config["lr_scheduler"]["init_args"]["T_max"] == 1000
    assert probe([str(run), "--checkpoints=last", "--device=cpu", "--progress=false"]) == 1
    assert TRUST in capsys.readouterr().err and "net" not in sys.modules
    assert probe([str(run), "--checkpoints=last", "--device=cpu", "--progress=false", "--trust"]) == 0
    same = compare_with_run(RunFolder(run / "probes" / "replay" / "num_steps=0008"), run)
    assert same.equal == same.compared > 0


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (inversions, ["RUN"]),
        (whitening, ["RUN"]),
        (search_noise, ["IMAGE", "--model", "RUN", "--run", "RUN", "--ridge=0.01"]),
        (edit, ["IMAGE", "--model", "RUN", "--run", "RUN", "--ridge=0.01"]),
    ],
)
def test_commands_ask_for_trust(
    command: object, arguments: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (8, 8)).save(run / "IMAGE.png")
    words = [{"RUN": str(run), "IMAGE": str(run / "IMAGE.png")}.get(word, word) for word in arguments]
    assert command([*words, "--device=cpu"]) == 1  # type: ignore[operator]
    error = capsys.readouterr().err
    assert TRUST in error and error.count("error:") == 1
    assert "net" not in sys.modules


def test_inversions_of_a_network_that_is_trusted(run: Path) -> None:
    options = ["--methods=ddim", "--num_steps=4", "--settings.num_samples=3", "--device=cpu", "--trust"]
    assert inversions([str(run), *options, "--out", str(run / "inversions")]) == 0


def test_a_run_goes_on_bit_for_bit_with_momentum_and_a_schedule(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = RunFolder(run).checkpoint_path(4)
    whole = torch.load(last, weights_only=True)
    last.unlink()
    for change in ("--optimizer.lr=0.1", "--lr_scheduler.T_max=9", "--network.depth=1"):
        assert fit(DIT, run, "--resume=auto", change) == 1
        assert f"{change[2:].replace('.', '.init_args.').partition('=')[0]}: " in capsys.readouterr().err
    assert fit(DIT, run, "--resume=auto") == 0
    again = torch.load(last, weights_only=True)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "hyper_parameters"):
        assert_same_tensors(again[part], whole[part], part)
    assert whole["lr_schedulers"][0]["last_epoch"] == 4
    (state,) = whole["optimizer_states"]
    trained = [name for name in whole["state_dict"] if name.startswith("eps_model.")]
    assert len(state["state"]) == len(state["param_groups"][0]["params"]) == len(trained)


def test_a_branch_keeps_the_optimiser(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = DIT.index("--optimizer")
    default = [*DIT[:place], *DIT[place + 6 :]]
    assert fit(default, tmp_path / "branch", f"--resume={RunFolder(run).checkpoint_path(2)}") == 1
    assert "optimizer.class_path: 'torch.optim.SGD' there, None asked for" in capsys.readouterr().err
    assert not (tmp_path / "branch").exists()


def test_a_module_is_made_from_its_checkpoint(run: Path, tiny_run: Path, tmp_path: Path) -> None:
    path = RunFolder(run).checkpoint_path(4)
    with pytest.raises(ValueError, match=re.escape(TRUST)):
        DiffusionModule.load_from_checkpoint(path)
    with pytest.raises(ValueError, match=re.escape(TRUST)):
        load_checkpoint_model(run)
    assert "net" not in sys.modules
    state = torch.random.get_rng_state()
    module = DiffusionModule.load_from_checkpoint(path, trust=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert module.image_shape == (1, 8, 8) and module.hparams["num_train_timesteps"] == 40
    model = load_checkpoint_model(path, trust=True)
    assert module.probe_model().digest == model.digest
    network = sys.modules["net"].TinyDiT(size=8)
    assert DiffusionModule.load_from_checkpoint(path, network=network).probe_model("raw").eps_model.unet is network
    # The U-Net of probediff needs nothing; weights that were thinned out load too.
    for thinned in (False, True):
        copy = tmp_path / f"{thinned}.ckpt"
        shutil.copy(RunFolder(tiny_run).checkpoint_path(4), copy)
        if thinned:
            keep_weights_only(copy)
        own = DiffusionModule.load_from_checkpoint(copy)
        difference = max(
            float((a - b).abs().max())
            for a, b in zip(own.ema.parameters(), load_checkpoint_model(tiny_run).eps_model.parameters(), strict=True)
        )
        assert difference < (1e-3 if thinned else 1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hyper_parameters": None}, "is of an earlier version; read its model by"),
        ({"network": None}, "network must be given for"),
        ({"network": {"class_path": "os.system"}}, "got the class 'os.system', which would be imported and run"),
        ({"network": {"class_path": ["a"]}}, "must have the types that"),
        ({"network": {"class_path": "probediff.denoisers.UNet", "init_args": {"x": 1}}}, "must be arguments of UNet"),
        ({"loss": "none"}, "loss must be one of"),
        ({"_instantiator": "lightning.pytorch.cli.instantiate_module", "optimizer": {"class_path": "evil.X"}}, None),
    ],
)
def test_a_stranger_s_checkpoint_is_data(
    changes: dict[str, object], words: str | None, tiny_run: Path, tmp_path: Path, folder: Path
) -> None:
    (folder / "evil.py").write_text("open('imported', 'w').close()")
    checkpoint = torch.load(RunFolder(tiny_run).checkpoint_path(2), weights_only=True)
    if "hyper_parameters" in changes:
        del checkpoint["hyper_parameters"]
    else:
        checkpoint["hyper_parameters"] |= changes
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises((ValueError, TypeError), match=words or "optimizer"):
        DiffusionModule.load_from_checkpoint(tmp_path / "x.ckpt")
    assert not (folder / "imported").exists()


def test_what_a_trusted_run_names_is_a_network(run: Path, folder: Path) -> None:
    for name, reason in {"nowhere.Net": "No module named", "os.system": "os.system", "net.Nothing": "Nothing"}.items():
        change_config(run, network={"class_path": name, "init_args": {}})
        with pytest.raises(
            ValueError, match=f"must be a network and its arguments, got '{name}': .*{reason}"
        ) as caught:
            load_checkpoint_model(run, trust=True)
        assert "\n" not in str(caught.value)
    change_config(run, network={"class_path": "net.TinyDiT", "init_args": {"size": 8, "width": 32}})
    with pytest.raises(ValueError, match=r"must hold in ema\.models\.0"):
        load_checkpoint_model(run / "checkpoints" / "step=00000004.ckpt", trust=True)


def test_a_network_of_diffusers_replays_exactly(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    run = tmp_path / "run"
    few = ["--trainer.max_steps=2", "--probing.settings.num_samples=5", "--probing.schedule.steps=[]"]
    assert fit(DIFFUSERS, run, *few, "--trajectory_heatmap.enabled=false") == 0
    assert probe([str(run), "--checkpoints=last", "--device=cpu", "--progress=false", "--trust"]) == 0
    same = compare_with_run(RunFolder(run / "probes" / "replay" / "num_steps=0008"), run)
    assert same.equal == same.compared > 0


def test_batch_normalisation_counts_in_whole_numbers(run: Path, folder: Path) -> None:
    (folder / "normed.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))\n"
        "    def forward(self, x, timestep):\n"
        "        return self.layers(x)\n"
    )
    change_config(run, network={"class_path": "normed.Net"})
    sys.path.append(str(folder))
    network = __import__("normed").Net()
    module = DiffusionModule(network, num_train_timesteps=40, ema_rates=[0.99], image_shape=(1, 8, 8))
    path = RunFolder(run).checkpoint_path(4)
    torch.save({"state_dict": module.state_dict(), "global_step": 4}, path)
    model = load_checkpoint_model(path, trust=True)
    assert model.digest == module.probe_model().digest
    assert model.eps_model.unet.layers[1].num_batches_tracked.dtype == torch.int64
