"""Damage of every kind to checkpoints and run folders: an error in words, or the same numbers, or it is said."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.__main__ import main
from probediff.runs.folder import RunFolder
from tests.commands.reading import read_values
from tests.conftest import TINY_RUN

ROOT = Path(__file__).parents[2]
FIT = ["fit", "--config", str(ROOT / "configs" / "digits.yaml"), *TINY_RUN, "--resume=auto"]


def flip_bit(content: bytearray, rng: random.Random) -> bytearray:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def zero_block(content: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(content))
    end = min(len(content), start + 4096)
    content[start:end] = bytes(end - start)
    return content


def cut(content: bytearray, rng: random.Random) -> bytearray:
    return content[: rng.randrange(len(content))]


def append(content: bytearray, rng: random.Random) -> bytearray:
    return content + rng.randbytes(rng.randrange(1, 200))


def repeat_part(content: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(content))
    return content[: start + 64] + content[start:]


def replace_all(content: bytearray, rng: random.Random) -> bytearray:
    return bytearray(rng.choice([b"", b"\0" * len(content), b"{}", b"[]", b"null", b"PK\x03\x04", rng.randbytes(100)]))


DAMAGES: list[Callable[[bytearray, random.Random], bytearray]] = [
    *(flip_bit, flip_bit, flip_bit, zero_block, cut, append, repeat_part, replace_all)
]


def damage_structure(path: Path, rng: random.Random) -> None:
    """A whole file with its checksums, and a part of it that is missing or of another type."""
    checkpoint = torch.load(path, weights_only=True)
    part: Any = checkpoint
    for _ in range(rng.randrange(1, 6)):
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = rng.choice(keys)
        if not isinstance(part[key], dict | list) or not part[key]:
            break
        inner = part[key]
        if rng.random() < 0.3:
            break
        part = inner
    keys = list(part) if isinstance(part, dict) else list(range(len(part)))
    key = rng.choice(keys)
    if rng.random() < 0.5:
        del part[key]
    else:
        part[key] = rng.choice([None, "text", [], {}, -1, torch.zeros(2)])
    torch.save(checkpoint, path)


def run_command(arguments: list[str]) -> tuple[int, str]:
    """Exit status and all that is said; an exception that comes out would be a traceback."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: said.write(f"warning: {message}\n")
        status = main(arguments)
    assert "Traceback" not in said.getvalue()
    return status, said.getvalue()


def tables_of(folder: Path) -> dict[str, list[list[str]]]:
    return {path.name: list(csv.reader(path.open())) for path in sorted(folder.glob("tables/*.csv"))}


class Command:
    """One command on a run, and the numbers that it leaves or prints."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, run: Path, out: Path) -> tuple[int, str, Any]:
        """Exit status, what was said, and the numbers where the status is 0."""
        arguments = {
            "probe": ["probe", str(run), "--out", str(out), "--device=cpu", "--progress=false"],
            "fit": [*FIT, "--run_dir", str(run)],
            "runs": ["runs", str(run), "--json"],
            "report": ["report", str(run), "--out", str(out)],
        }[self.name]
        status, said = run_command(arguments)
        return status, said, self.numbers(run, out, said) if status == 0 else None

    def numbers(self, run: Path, out: Path, said: str) -> Any:
        if self.name == "probe":
            return read_values(out / "num_steps=0008")
        if self.name == "fit":
            return read_values(run)
        if self.name == "report":
            return tables_of(out)
        rows = json.loads("\n".join(line for line in said.splitlines() if not line.startswith("warning: ")))
        return [{k: v for k, v in row.items() if k not in ("path", "changed_at", "age_sec")} for row in rows]


@contextlib.contextmanager
def copy_run(run: Path, place: Path) -> Iterator[Path]:
    """A copy that is gone afterwards."""
    copy = Path(shutil.copytree(run, place / "run"))
    try:
        yield copy
    finally:
        shutil.rmtree(place)


def check_outcome(command: str, damaged: Path, run: Path, out: Path, expected: Any) -> str:
    """Run the command on the damaged folder; returns in one word how it ended, or fails."""
    status, said, numbers = Command(command).run(run, out)
    if status != 0:
        assert "error:" in said, said
        return "error"
    if numbers == expected:
        return "same"
    if damaged.name in said or "unreadable" in said:
        return "said"
    assert is_valid_json(damaged), (command, damaged, said, numbers, expected)
    return "other JSON"


def is_valid_json(path: Path) -> bool:
    """Valid JSON with other values is exempt: a line has no checksum. A torn last line is what a kill leaves."""
    if path.suffix not in (".json", ".jsonl") or not path.exists():
        return False
    try:
        text = path.read_text(encoding="utf-8")
        for line in text.split("\n")[:-1] if path.suffix == ".jsonl" else [text]:
            json.loads(line)
    except ValueError:
        return False
    return True


@pytest.fixture(scope="module")
def expected(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each command says of the undamaged run."""
    numbers = {}
    for command in ("probe", "fit", "runs"):
        place = tmp_path_factory.mktemp("expected")
        shutil.copytree(tiny_run, place / "run")
        status, said, numbers[command] = Command(command).run(place / "run", place / "out")
        assert status == 0, said
        assert numbers[command]
    return numbers


#: Damages a file of the run; returns the file and what was done, in a few words.
Damage = Callable[[Path, random.Random], tuple[Path, str]]


def damage_bytes(path: Path, rng: random.Random) -> str:
    damage = rng.choice(DAMAGES)
    path.write_bytes(damage(bytearray(path.read_bytes()), rng))
    return damage.__name__


def damage_checkpoint(run: Path, rng: random.Random) -> tuple[Path, str]:
    path = rng.choice(list(RunFolder(run).checkpoints().values()))
    if rng.random() < 0.25:
        damage_structure(path, rng)
        return path, "structure"
    return path, damage_bytes(path, rng)


def damage_any_file(run: Path, rng: random.Random) -> tuple[Path, str]:
    """Each kind of file as often as any other; one in ten is missing."""
    folder = rng.choice(["", "checkpoints", "samples", "pictures"])
    path = rng.choice(sorted(path for path in (run / folder).iterdir() if path.is_file() and path.suffix != ".lock"))
    name = folder or path.name
    if rng.random() < 0.1:
        path.unlink()
        return path, f"{name}, missing"
    return path, f"{name}, {damage_bytes(path, rng)}"


def try_damages(
    damage: Damage, commands: Sequence[str], run: Path, expected: dict[str, Any], place: Path, seeds: range
) -> Counter[str]:
    """One damaged file a seed, then one of the commands on the run; how often each ended how."""
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        rng = random.Random(seed)
        command = rng.choice(commands)
        with copy_run(run, place / str(seed)) as copy:
            path, done = damage(copy, rng)
            try:
                outcome = check_outcome(command, path, copy, place / str(seed) / "out", expected[command])
            except BaseException as error:
                error.add_note(f"seed {seed}: {command}, {done}")
                raise
        outcomes[f"{command}, {done}: {outcome}"] += 1
    print(json.dumps(dict(sorted(outcomes.items())), indent=1))
    return outcomes


ON_CHECKPOINTS = ("probe", "probe", "fit")
ON_FOLDERS = ("probe", "probe", "fit", "runs", "runs", "runs")


def test_damaged_checkpoints(tiny_run: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    outcomes = try_damages(damage_checkpoint, ON_CHECKPOINTS, tiny_run, expected, tmp_path, range(3))
    assert outcomes.total() == 3


def test_damaged_run_folders(tiny_run: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    outcomes = try_damages(damage_any_file, ON_FOLDERS, tiny_run, expected, tmp_path, range(1000, 1006))
    assert outcomes.total() == 6


@pytest.mark.slow
def test_500_damaged_checkpoints(tiny_run: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    outcomes = try_damages(damage_checkpoint, ON_CHECKPOINTS, tiny_run, expected, tmp_path, range(2000, 2500))
    assert outcomes.total() == 500


@pytest.mark.slow
def test_500_damaged_run_folders(tiny_run: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    expected = expected | {"report": Command("report").run(tmp_path / "run", tmp_path / "out")[2]}
    commands = (*ON_FOLDERS, "report")
    outcomes = try_damages(damage_any_file, commands, tiny_run, expected, tmp_path, range(3000, 3500))
    assert outcomes.total() == 500
