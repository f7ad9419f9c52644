"""Two locks of a folder: who works there, and who writes; with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probediff.runs.folder import LOCK, WRITING
from probediff.runs.lock import claim, holder, is_held, lock_writes, own, release

HOLD = """
import sys, time
from pathlib import Path
from probediff.runs.lock import own
own(Path(sys.argv[1]), "--out")
print("held", flush=True)
time.sleep(60)
"""
# Reads, waits, and writes one more: concurrent ones would lose numbers without the lock.
COUNT = """
import sys, time
from pathlib import Path
from probediff.runs.lock import lock_writes
folder = Path(sys.argv[1])
for _ in range(20):
    with lock_writes(folder):
        file = folder / "count"
        count = int(file.read_text()) if file.exists() else 0
        time.sleep(0.001)
        file.write_text(str(count + 1))
"""
# Starts that are refused make and remove the folder again and again, while others do.
REFUSED = """
import sys, time
from pathlib import Path
from probediff.runs.lock import claim
for _ in range(100):
    with claim(Path(sys.argv[1]), "--out", wait_sec=30):
        pass
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)


@contextmanager
def other_process_in(folder: Path) -> Iterator[int]:
    """A process that owns the folder; its number."""
    process = start(HOLD, folder)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_with_the_number_of_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with other_process_in(folder) as pid:
        before = (folder / LOCK).read_bytes()
        with (
            pytest.raises(ValueError, match=rf"process {pid} is at work in .*out; .* give another --out"),
            claim(folder, "--out"),
        ):
            pytest.fail("it is not ours")
        assert (folder / LOCK).read_bytes() == before
        assert [path.name for path in folder.iterdir()] == [LOCK]
        assert (holder(folder) or {})["process"] == pid


def test_a_killed_holder_holds_no_longer(tmp_path: Path) -> None:
    with other_process_in(tmp_path) as pid:
        os.kill(pid, signal.SIGKILL)
        with claim(tmp_path, "--out", wait_sec=5):
            assert (holder(tmp_path) or {})["process"] == os.getpid()
    assert not is_held(tmp_path)


def test_refused_work_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), claim(tmp_path / "a" / "b", "--out"):
        with lock_writes(tmp_path / "a" / "b"):
            pass
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").write_text("here before")
    with pytest.raises(ValueError, match="refused"), claim(tmp_path, "--out"):
        raise ValueError("refused")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_work_that_wrote_leaves_what_it_wrote_and_gives_the_folder_back(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with claim(folder, "--out"):
        with claim(folder, "--out"):  # a command within the command
            (folder / "result").write_text("1")
        assert is_held(folder)
    assert {path.name for path in folder.iterdir()} == {LOCK, "result"}
    assert is_held(folder) is False
    with claim(folder, "--out"):
        pass
    assert (folder / LOCK).is_file()


def test_what_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        with pytest.raises(ValueError, match=f"--out must be a folder that can be written to, got {folder}"):
            own(folder, "--out")


def test_writers_never_come_between_each_other(tmp_path: Path) -> None:
    processes = [start(COUNT, tmp_path) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "80"
    assert (tmp_path / WRITING).is_file()


def test_starts_that_are_refused_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    processes = [start(REFUSED, tmp_path / "a" / "out") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0] * 3
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_lock_is_released_once(tmp_path: Path) -> None:
    own(tmp_path, "--out")
    release(tmp_path)
    release(tmp_path)
    assert is_held(tmp_path) is False
