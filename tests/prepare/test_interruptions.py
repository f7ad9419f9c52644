"""No kill and no full disk changes what is written in the end."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from probediff.files import explain_disk_errors
from probediff.prepare.manifest import read_manifest
from tests.prepare.tiny_sets import contents, prepared

ROOT = Path(__file__).parents[2]
# Shards of three source files, so that few images make many. A file that is named like a slow one never comes.
SCRIPT = """
import sys, threading
from pathlib import Path
from probediff.prepare import shards
from probediff.prepare.images import prepare_images

read_entry = shards.read_entry

def read_slowly(source, entry):
    if "slow" in entry.name:
        threading.Event().wait()
    return read_entry(source, entry)

shards.read_entry = read_slowly
if __name__ == "__main__":
    prepare_images(Path(sys.argv[1]), Path(sys.argv[2]), 8, 2, images_per_shard=3)
"""
SLOW = "n1/n1_1a_slow.png"


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def start(source: Path, out: Path, **options: object) -> "subprocess.Popen[bytes]":
    script = out.with_name("prepare.py")  # a file, for the workers import it
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(source), str(out)]
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


def test_killed_while_writing_and_started_again(source: Path, out: Path, tmp_path: Path) -> None:
    """A file that never comes blocks its worker, so that both kills hit a half-written shard."""
    folder, target = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, folder)
    shutil.copy(folder / "n1" / "n1_1.png", folder / SLOW)
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
    prepared(folder, target)
    assert len(written) == 7
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in written.items())
    assert contents(target) == contents(prepared(folder, tmp_path / "uninterrupted"))


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
    shutil.copy(folder / "n1" / "n1_1.png", folder / SLOW)
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
    with (
        pytest.raises(OSError, match=r"no space left to write b \(No space left on device\)"),
        explain_disk_errors(Path("b"), "OUT"),
    ):
        raise OSError(28, "No space left on device")
