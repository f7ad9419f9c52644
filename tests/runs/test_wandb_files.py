"""What W&B's local logs have, in whatever state, and results that are read back from a run's own folder."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probediff.runs.folder import END_OF_EVENT, RunFolder
from probediff.runs.stored_results import read_result
from probediff.runs.tracking import Tracker
from probediff.runs.wandb_files import read_logged_results, read_messages
from tests.runs.wandb_starts import BLOCK, MANY, angles, assert_each_record_once, event, logs, run_id


def log_of(messages: Sequence[bytes]) -> bytes:
    """A log with these messages, by the description of LevelDB's format."""
    log = bytearray(b":W&B\xe1\xbe\x00")
    for message in messages:
        left, first = message, True
        while first or left:
            room = BLOCK - len(log) % BLOCK
            if room < 7:
                log += bytes(room)
                room = BLOCK
            part, left = left[: room - 7], left[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not left]
            log += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
    return bytes(log)


MESSAGES = st.lists(st.builds(lambda size, seed: bytes([seed]) * size, st.integers(0, 80_000), st.integers(0, 255)))


@given(MESSAGES, st.integers(0, 70_000))
def test_messages_of_any_length_are_read_also_before_zeros(messages: list[bytes], num_zeros: int) -> None:
    assert list(read_messages(log_of(messages) + bytes(num_zeros))) == messages


@given(MESSAGES, st.data())
def test_a_log_cut_anywhere_gives_the_messages_that_are_whole(messages: list[bytes], data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(log_of(messages))))
    whole = [k for k in range(len(messages) + 1) if len(log_of(messages[:k])) <= size]
    assert list(read_messages(log_of(messages)[:size])) == messages[: max(whole, default=0)]


@given(st.lists(st.integers(0, 9_000), min_size=1), st.data())
def test_a_flipped_bit_costs_messages_of_its_block_and_makes_up_none(sizes: list[int], data: st.DataObject) -> None:
    messages = [k.to_bytes(4, "big") * (size // 4 + 1) for k, size in enumerate(sizes)]
    log = bytearray(log_of(messages))
    position = data.draw(st.integers(7, len(log) - 1))
    log[position] ^= 1 << data.draw(st.integers(0, 7))
    read = list(read_messages(bytes(log)))
    assert Counter(read) <= Counter(messages)
    block = position // BLOCK
    untouched = [
        message
        for k, message in enumerate(messages)
        if len(log_of(messages[: k + 1])) <= block * BLOCK or len(log_of(messages[:k])) >= (block + 1) * BLOCK
    ]
    assert Counter(untouched) <= Counter(read)


def test_the_log_has_what_was_logged(finished: Path) -> None:
    logged = read_logged_results(finished, run_id(finished))
    assert logged is not None
    assert logged.keys() == {(step, probe) for step in MANY for probe in ("angles", END_OF_EVENT)}
    for step in MANY:
        numbers, expected = sorted(logged[step, "angles"].values.items()), sorted(angles(step).values.items())
        assert repr(numbers) == repr(expected)  # NaN included
        errors = logged[step, "angles"].standard_errors
        assert repr(sorted(errors.items())) == repr(sorted(angles(step).standard_errors.items()))
        assert list(logged[step, "angles"].pictures) == ["shown"]
    assert_each_record_once(finished)
    assert read_logged_results(finished, "another1") is None
    assert read_logged_results(finished / "wandb", run_id(finished)) is None


def test_a_damaged_log_never_has_anything_else(finished: Path, tmp_path: Path) -> None:
    whole = read_logged_results(finished, run_id(finished))
    (source,) = logs(finished)
    content = source.read_bytes()
    copy = tmp_path / source.relative_to(finished)
    copy.parent.mkdir(parents=True)

    def read(data: bytes) -> dict[Any, Any]:
        copy.write_bytes(data)
        results = read_logged_results(tmp_path, run_id(finished))
        assert whole is not None and results is not None
        for key, result in results.items():
            assert repr(sorted(result.values.items())) == repr(sorted(whole[key].values.items()))
        return results

    counts = [len(read(content[:size])) for size in range(0, len(content) + 1000, 1000)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 2 * len(MANY))
    assert len(read(content + bytes(100_000))) == 2 * len(MANY)
    for position in range(7, len(content), 1000):
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        read(bytes(flipped))
    read(b"")
    read(os.urandom(100_000))


def test_a_result_is_read_back_from_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    Tracker(folder, []).log(event(3))
    record = next(record for record in folder.records() if record["probe"] == "angles")
    result, expected = read_result(folder, record), angles(3)
    assert json.dumps(result.values) == json.dumps(expected.values)
    assert json.dumps(result.standard_errors) == json.dumps(expected.standard_errors)
    assert result.histograms == expected.histograms
    for ours, theirs in ((result.arrays, expected.arrays), (result.pictures, expected.pictures)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_damaged_is_left_out_of_a_result_with_a_warning(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).create()
    Tracker(folder, []).log(event(3))
    arrays, picture = tmp_path / "samples/step=00000003.angles.safetensors", next(tmp_path.glob("pictures/*.png"))
    for path in (arrays, picture):
        os.truncate(path, path.stat().st_size // 2)
    record = folder.records()[0]
    with pytest.warns(UserWarning, match="left out") as warned:
        result = read_result(folder, record)
    assert len(warned) == 2
    assert (result.arrays, result.pictures, result.histograms) == ({}, {}, ())
    assert result.values["mean_deg"] == record["values"]["mean_deg"]
    arrays.unlink()
    picture.unlink()
    assert read_result(folder, record).values["mean_deg"] == record["values"]["mean_deg"]
