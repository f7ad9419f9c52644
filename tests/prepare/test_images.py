"""Preparing image sets: what is written, that no kill changes it, and what is refused."""

import fcntl
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from probediff.files import writing_to
from probediff.prepare.decoding import failure_reason, square_pixels
from probediff.prepare.images import prepare_images
from probediff.prepare.manifest import read_manifest, verify

ROOT = Path(__file__).parents[2]
# Shards of three source files, so that few images make many.
SCRIPT = """
import sys
from pathlib import Path
from probediff.prepare.images import prepare_images
if __name__ == "__main__":
    prepare_images(Path(sys.argv[1]), Path(sys.argv[2]), 8, 2, images_per_shard=3)
"""


def pixels(seed: int, height: int = 12, width: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_source(folder: Path, num_images: int = 20) -> Path:
    """Four classes of images; one image is grey, one file is broken, one image is too small, one file no image."""
    for index in range(num_images):
        path = folder / f"n{index % 4}" / f"n{index % 4}_{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(index)).save(path)
    Image.fromarray(pixels(1)).convert("L").save(folder / "n1" / "n1_grey.JPEG")
    Image.fromarray(pixels(1, 7, 30)).save(folder / "n2" / "n2_small.png")
    (folder / "n0" / "n0_broken.JPEG").write_text("no image")
    (folder / "n3" / "notes.txt").write_text("no image")
    return folder


def prepared(source: Path, out: Path, num_workers: int = 2) -> Path:
    prepare_images(source, out, 8, num_workers, images_per_shard=3)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")}


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def start(source: Path, out: Path, **options: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", SCRIPT, str(source), str(out)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes, **options)  # type: ignore[call-overload]


def wait_for_end_of_group(group: int) -> None:
    """Until the workers of a killed process have ended, too."""

    def is_gone() -> bool:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(is_gone)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("prepare") / "source")


@pytest.fixture(scope="module")
def out(source: Path) -> Path:
    return prepared(source, source.parent / "out")


def test_every_image_is_decoded_in_order(source: Path, out: Path) -> None:
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.[pJ]*"))
    good = [name for name in names if "broken" not in name and "small" not in name]
    expected = np.stack([square_pixels(source / name, 8, 3) for name in good])
    manifest = read_manifest(out)
    shards = [np.load(out / shard.file) for shard in manifest.shards]
    np.testing.assert_array_equal(np.concatenate(shards), expected)
    assert [len(shard) for shard in shards] == [shard.count for shard in manifest.shards]
    assert len(shards) == 8
    assert manifest.num_images == 21
    assert sorted(path.name for path in out.iterdir()) == [
        *(shard.file for shard in manifest.shards),
        "manifest.json",
        "unreadable.tsv",
    ]
    digests = [hashlib.sha256((out / shard.file).read_bytes()).hexdigest() for shard in manifest.shards]
    assert digests == [shard.sha256 for shard in manifest.shards]


def test_unreadable_files_are_listed(out: Path) -> None:
    lines = (out / "unreadable.tsv").read_text().splitlines()
    assert lines == [
        "name\treason",
        "n0/n0_broken.JPEG\tcannot identify image file",
        "n2/n2_small.png\tis 30 x 7 pixels, smaller than image_size 8",
    ]


def test_reasons_name_no_path_and_no_address() -> None:
    assert failure_reason(PermissionError(13, "Permission denied", "/home/me/a.png")) == "Permission denied"
    assert (
        failure_reason(SyntaxError("odd <_io.BytesIO object at 0x7f00ab>\n chunk")) == "odd <_io.BytesIO object> chunk"
    )
    assert failure_reason(ValueError()) == "ValueError"


def test_dangling_links_and_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    Image.fromarray(pixels(0)).save(folder / "a\tb\n.png")
    (folder / "c\td.png").symlink_to(tmp_path / "absent")
    (folder / "._a.png").write_text("a companion file of macOS")
    manifest = prepare_images(folder, tmp_path / "out", 8, 1)
    assert manifest.num_images == 1
    assert (tmp_path / "out" / "unreadable.tsv").read_text() == "name\treason\nc\\td.png\tNo such file or directory\n"


def test_the_number_of_processes_changes_nothing(source: Path, out: Path, tmp_path: Path) -> None:
    assert contents(prepared(source, tmp_path / "one", 1)) == contents(out)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def class_tars(source: Path) -> dict[str, bytes]:
    tars = {}
    for folder in source.iterdir():
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path in folder.iterdir():
                add(tar, path.name, path.read_bytes())
        tars[f"{folder.name}.tar"] = buffer.getvalue()
    return tars


@pytest.fixture(scope="module")
def tars(source: Path) -> tuple[Path, Path]:
    """The official forms: one tar of class tars, and a folder of class tars."""
    together, apart = source.parent / "ILSVRC2012_img_train.tar", source.parent / "tars"
    apart.mkdir()
    with tarfile.open(together, "w") as tar:
        for name, content in class_tars(source).items():
            add(tar, name, content)
            (apart / name).write_bytes(content)
    return together, apart


def test_tars_give_the_same_bytes_as_folders(tars: tuple[Path, Path], out: Path, tmp_path: Path) -> None:
    for index, form in enumerate(tars):
        assert contents(prepared(form, tmp_path / str(index))) == contents(out)


def test_a_flat_tar(source: Path, out: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(source, arcname=".")
    assert contents(prepared(tmp_path / "all.tar", tmp_path / "out")) == contents(out)


def test_damaged_tars_are_refused(tars: tuple[Path, Path], tmp_path: Path) -> None:
    whole = tars[0].read_bytes()
    with tarfile.open(tars[0]) as tar:
        places = [(member.offset, member.offset_data) for member in tar]
    middle = bytearray(whole)
    middle[places[2][0] + 5] ^= 255
    inner = bytearray(whole)
    inner[places[1][1] + 5] ^= 255
    damaged = {"end": whole[: places[3][0]], "cut": whole[: places[2][1] + 2000], "header": middle, "inner": inner}
    for name, content in damaged.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"SOURCE must be a whole, uncompressed tar file, got .*download it again"):
            prepared(path, tmp_path / "out")
    with tarfile.open(tmp_path / "small.tar.gz", "w:gz") as tar:
        add(tar, "a.png", b"x")
    with pytest.raises(ValueError, match="must be a whole, uncompressed tar file"):
        prepared(tmp_path / "small.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_killed_while_writing_and_started_again(source: Path, out: Path, tmp_path: Path) -> None:
    """A pipe among the images blocks its worker, so that both kills hit a half-written shard."""
    folder, target = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, folder)
    os.mkfifo(folder / "n1" / "n1_1a.png")
    for _ in range(2):
        process = start(folder, target)
        wait_for(lambda: len(list(target.glob("images-*.json"))) == 7 and len(list(target.glob(".images-*"))) == 1)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        wait_for_end_of_group(process.pid)
        assert not (target / "manifest.json").exists()
        with pytest.raises(
            FileNotFoundError, match=r"got .* without manifest.json; its preparation has not ended: start"
        ):
            read_manifest(target)
    written = {path: path.stat().st_mtime_ns for path in target.glob("images-*.npy")}
    pipe = os.open(folder / "n1" / "n1_1a.png", os.O_RDWR)
    try:
        prepared(folder, target)
        expected = prepared(folder, tmp_path / "uninterrupted")
    finally:
        os.close(pipe)
    assert len(written) == 7
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in written.items())
    assert contents(target) == contents(expected)
    assert "n1/n1_1a.png\tFile or stream is not seekable." in (target / "unreadable.tsv").read_text()


def test_every_state_that_a_kill_can_leave_is_mended(source: Path, out: Path, tmp_path: Path) -> None:
    """A shard without its record, a record without its shard, a half-written file; before and after the manifest."""
    manifest = json.loads((out / "manifest.json").read_text())
    for finished in (False, True):
        target = tmp_path / str(finished)
        shutil.copytree(out, target)
        (target / "unfinished.json").write_text(json.dumps(manifest["identity"]))
        for index in range(1, 8) if finished else range(1, 6):
            (target / f"images-{index:05}.json").write_text(json.dumps(manifest["shards"][index]))
        (target / ".images-00007.npy.12345.partial").write_bytes(b"half")
        if not finished:
            (target / "manifest.json").unlink()
            (target / "images-00003.npy").unlink()
            (target / "images-00004.npy").write_bytes(b"cut off")
        assert contents(prepared(source, target)) == contents(out)


@pytest.mark.parametrize("delays", [(0.0, 0.3), (0.15, 0.02), (0.25, 0.1)])
def test_killed_at_any_moment(source: Path, out: Path, tmp_path: Path, delays: tuple[float, float]) -> None:
    """Kills some time after the folder appeared: while workers start, decode, or end."""
    target = tmp_path / "out"
    for delay in delays:
        process = start(source, target)
        wait_for(target.exists)
        time.sleep(delay)
        process.kill()
        process.communicate()
        wait_for_end_of_group(process.pid)
    assert contents(prepared(source, target)) == contents(out)


def test_a_killed_worker_is_an_error_that_can_be_mended(source: Path, tmp_path: Path) -> None:
    folder, target = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, folder)
    os.mkfifo(folder / "n1" / "n1_1a.png")
    process = start(folder, target)
    wait_for(lambda: len(list(target.glob("images-*.json"))) == 7)
    (partial,) = target.glob(".images-*")
    os.kill(int(partial.name.split(".")[-2]), signal.SIGKILL)
    message = process.communicate(timeout=30)[1].decode()
    assert "a worker process was killed (out of memory?); start the same command again" in message


def test_a_full_disk_leaves_nothing_half_written(source: Path, out: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the error takes the same way."""
    target = tmp_path / "out"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    message = start(source, target, preexec_fn=limited).communicate(timeout=60)[1].decode()
    assert f"OSError: OUT: no space left to write {target} (File too large); free some" in message
    assert list(target.glob(".*")) == []
    assert len(list(target.glob("*.npy"))) < 8
    assert contents(prepared(source, target)) == contents(out)
    with pytest.raises(OSError, match=r"no space left to write b \(No space left on device\)"), writing_to(Path("b")):
        raise OSError(28, "No space left on device")


def test_too_little_space_is_told_at_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"OUT needs 0.0 GB more, got .* with 0.0 GB free; free some or choose another"):
        prepared(source, tmp_path / "out")


def test_verify_finds_a_flipped_byte_and_the_command_mends_it(source: Path, out: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    shutil.copytree(out, target)
    assert verify(target) == read_manifest(out)
    broken = target / "images-00002.npy"
    content = bytearray(broken.read_bytes())
    content[-7] ^= 1
    broken.write_bytes(content)
    (target / "images-00005.npy").unlink()
    with pytest.raises(
        ValueError, match=r"2 of 8 shards .*: images-00002.npy, images-00005.npy; delete these files and"
    ):
        verify(target)
    broken.unlink()
    assert contents(prepared(source, target)) == contents(out)
    verify(target)


def test_a_finished_set_is_left_alone(source: Path, out: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    prepared(source, out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.npy")} == times


def test_other_sets_in_out_are_refused(source: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"with images of 8 pixels \(now 4\); give the SOURCE and --image_size that"):
        prepare_images(source, out, 4, 1, images_per_shard=3)
    other = tmp_path / "other"
    shutil.copytree(source, other)
    (other / "n0" / "n0_0.png").unlink()
    with pytest.raises(ValueError, match=r"with 23 files of other names or sizes \(now 22\)"):
        prepared(other, out)
    with pytest.raises(ValueError, match="with a set of another version of this program"):
        prepare_images(source, out, 8, 1, images_per_shard=4)
    with pytest.raises(
        ValueError, match=r"OUT must be new, empty or begun by this command, got .*, which holds n\d; name"
    ):
        prepared(source, other)
    (tmp_path / "begun").mkdir()
    identity = json.loads((out / "manifest.json").read_text())["identity"] | {"image_size": 16}
    (tmp_path / "begun" / "unfinished.json").write_text(json.dumps(identity))
    with pytest.raises(ValueError, match="with images of 16 pixels"):
        prepared(source, tmp_path / "begun")


def test_wrong_sources_and_places_are_refused(source: Path, tars: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"SOURCE must be a folder of images .*there is no such file or folder"):
        prepared(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"SOURCE must hold at least one image, got .*empty: none found; give a"
    ):
        prepared(tmp_path / "empty", tmp_path / "out")
    for place in (source, source / "n0" / "out"):
        with pytest.raises(ValueError, match=r"OUT must not lie in SOURCE, got .*; name a folder outside of it"):
            prepared(source, place)
    shutil.copytree(tars[1], tmp_path / "mixed")
    Image.fromarray(pixels(0)).save(tmp_path / "mixed" / "a.png")
    with pytest.raises(
        ValueError, match=r"either images or class tars, got both in .*: a.png and n0.tar; move one kind"
    ):
        prepared(tmp_path / "mixed", tmp_path / "out")
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "train.tar").symlink_to(tars[0])
    with pytest.raises(
        ValueError, match=r"must hold class tars, got .*train.tar, a tar of tars; give that file itself"
    ):
        prepared(tmp_path / "nested", tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"OUT must be a folder that can be written, got .*file.*; choose another"):
        prepared(source, tmp_path / "file" / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"1 files and none of them can \(a.png: cannot identify image file\); check"):
        prepared(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_wrong_arguments(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        prepare_images(source, tmp_path / "out", 0, 1)
    with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
        prepare_images(source, tmp_path / "out", 8, 0)


def test_one_command_at_a_time(source: Path, tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(ValueError, match=r"OUT is being written by another process, got .*; wait for it to end"):
            prepared(source, tmp_path)
    finally:
        os.close(held)
