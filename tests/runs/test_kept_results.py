"""What a result is, is compared with what is asked for."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from probediff.files import save_tensors
from probediff.runs.kept_results import check_same_settings, lock_results, read_result, show_result, write_result

SETTINGS: dict[str, Any] = {"weights_sha256": "ab", "ridge": 0.01, "search": {"seed": 0, "statistics": {"ridge": 1.0}}}
CONDITIONS = {"num_threads": 2, "device": "cpu"}


def write(folder: Path, conventions: Any, **others: Any) -> Path:
    path = folder / "result.json"
    path.write_text(json.dumps({"conventions": conventions, "number": 3, **others}))
    return path


def show(path: Path, wanted: dict[str, Any], **options: Any) -> bool:
    return show_result(path, wanted, lambda result: f"it is {result['number'] + 0}", **options)


def test_the_result_of_the_same_settings_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not show(tmp_path / "result.json", SETTINGS)
    path = write(tmp_path, SETTINGS | CONDITIONS)
    assert show(path, SETTINGS | CONDITIONS)
    assert capsys.readouterr().out == f"it is 3\n\nThis result is there already: {path}\n"


def test_conditions_are_told_and_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(write(tmp_path, SETTINGS | CONDITIONS), SETTINGS | {"num_threads": 8, "device": "cpu"})
    assert "num_threads was 2 there and is 8 now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({"ridge": 0.1}, "ridge is 0.1 there and 0.01 now"),
        ({"weights_sha256": "cd"}, "weights_sha256 is cd there and ab now"),
        ({"search": {"seed": 7, "statistics": {"ridge": 1.0}}}, "search.seed is 7 there and 0 now"),
        ({"ridge": 0.1, "search": {"seed": 7}}, "ridge is 0.1 there and 0.01 now; search.seed is 7 there and 0 now"),
        ({"stored_dtype": "float16"}, "stored_dtype is float16 there and nothing now"),
    ],
)
def test_other_settings_are_refused_with_both_values_and_the_cure(
    tmp_path: Path, there: dict[str, Any], words: str
) -> None:
    path = write(tmp_path, SETTINGS | there)
    with pytest.raises(ValueError, match="--out must be a folder without results of other settings") as refusal:
        show(path, SETTINGS)
    assert words in str(refusal.value)
    assert str(refusal.value).endswith(f"give another --out, or remove {path}")


def test_a_name_is_not_the_thing() -> None:
    there = SETTINGS | {"model": "ddpm", "images": "a", "images_sha256": "12"}
    check_same_settings(Path("r"), there, there | {"model": "copy", "images": "b"})
    with pytest.raises(ValueError, match="images_sha256 is 12 there and 34 now"):
        check_same_settings(Path("r"), there, there | {"images_sha256": "34"})


def test_what_an_earlier_version_did_not_record_is_not_taken_for_the_same(tmp_path: Path) -> None:
    old = {key: value for key, value in SETTINGS.items() if key != "weights_sha256"}
    with pytest.raises(ValueError, match="written by an earlier version, which did not record which weights"):
        show(write(tmp_path, old), SETTINGS)
    with pytest.raises(ValueError, match="written by an earlier version, which did not record tolerance"):
        show(write(tmp_path, SETTINGS), SETTINGS | {"tolerance": 0.1})


def test_a_digest_that_only_the_work_tells_is_not_asked_for() -> None:
    check_same_settings(
        Path("r"), SETTINGS | {"statistics": {"ridge": 1, "sha256": "x"}}, {**SETTINGS, "statistics": {"ridge": 1}}
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "3",
        '{"number": 3}',
        '{"conventions": 3}',
        '{"conventions": {"weights_sha256": "ab"}}',
        "\x00",
        "[" * 99999,
    ],
)
def test_a_damaged_result_is_an_error_with_the_cure(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path} must hold results of this command, got a damaged file .*; remove "):
        show(path, {"weights_sha256": "ab"})
    with pytest.raises(ValueError, match="damaged"):
        read_result(path, tuple)


def test_files_beside_it_are_those_that_were_written_with_it(tmp_path: Path) -> None:
    path, tensors = tmp_path / "result.json", tmp_path / "a.safetensors"
    save_tensors(tensors, {"x": torch.ones(8)})
    write_result(path, {"conventions": SETTINGS, "number": 3}, ["a.safetensors"])
    assert show(path, SETTINGS)
    save_tensors(tensors, {"x": torch.zeros(8)})
    with pytest.raises(ValueError, match=f"{tensors} must hold results .*not the one that was written with .*remove "):
        show(path, SETTINGS)
    tensors.unlink()
    with pytest.raises(ValueError, match=rf"{tensors} must hold results .*No such file.* remove {path}"):
        show(path, SETTINGS)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "--out: no space left to write .* free some"),
        (errno.EROFS, "--out must be a folder that can be written to, got .* choose another"),
    ],
)
def test_errors_of_the_disk_say_the_cure(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(OSError, match=message), lock_results(tmp_path):
        raise OSError(number, os.strerror(number))
