"""The command: help, exit statuses, messages, and what it imports."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from probediff.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "n0"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((70, 64, 3), np.uint8)).save(folder / "a.png")
    (folder / "b.JPEG").write_text("no image")
    return folder.parent


def test_help_needs_nothing_heavy() -> None:
    heavy = "{'torch', 'lightning', 'PIL', 'numpy', 'litdata'}"
    for arguments in (["prepare", "--help"], ["prepare", "imagenet64", "--help"], ["prepare", "stream", "--help"]):
        code = (
            f"import sys\nfrom probediff.__main__ import main\ntry:\n    main({arguments})\n"
            f"except SystemExit:\n    sys.exit(len({heavy} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert "litdata" in done.stdout or "restart" in done.stdout or "start it again" in done.stdout


def test_decoding_needs_no_torch() -> None:
    code = (
        "import sys\nimport probediff.prepare.images, probediff.prepare.stream\n"
        "sys.exit(len({'torch', 'lightning', 'litdata'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_whole_run(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["prepare", "imagenet64", str(source), out, "--num_workers", "1"]) == 0
    text = capsys.readouterr().out
    assert f"{out}: 1 images of 64 x 64 pixels in 1 shards; 1 of 2 files could not be read, see {out}/unrea" in text
    assert main(["prepare", "imagenet64", "absent", out, "--verify"]) == 0
    assert "1 images in 1 shards match their checksums" in capsys.readouterr().out
    small = str(tmp_path / "small")
    assert main(["prepare", "imagenet64", str(source), small, "--image_size", "32", "--num_workers", "1"]) == 0
    assert np.load(Path(small) / "images-00000.npy").shape == (1, 3, 32, 32)


def test_errors_are_one_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "imagenet64", str(source / "absent"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("probediff prepare: error: SOURCE must be a folder of images (.bmp, ")
    assert main(["prepare", "imagenet64", str(source), str(tmp_path / "out"), "--verify"]) == 1
    assert "without manifest.json; make one with `probediff prepare imagenet64" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "imagenet", "a", "b"])
    assert stopped.value.code == 2


def test_stopping_says_how_to_go_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("probediff.prepare.images.list_entries", stop)
    assert main(["prepare", "imagenet64", str(source), str(tmp_path / "out")]) == 130
    assert "stopped; start the same command again to go on" in capsys.readouterr().err
