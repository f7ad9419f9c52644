"""Data of strangers: bounded in size, depth and time, of plain types, and from regular files only."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from probediff.files import open_plain_file, parse_json, parse_yaml, read_checkpoint, read_object, read_yaml
from probediff.prepare.images import finished_shards
from probediff.prepare.manifest import read_manifest
from probediff.runs.folder import RunFolder
from probediff.runs.record import read_record
from tests.commands.damage import SPECIAL

LAUGHS = "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else 'x'}]\n" for k in range(30))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k}\n  <<: [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 15))


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "&a [*a]", "&a {b: *a}", "[" * 9999, "{a: " * 200 + "}" * 200])
def test_yaml_that_would_grow_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|expected") as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["a: 2024-01-01", "!!binary aGk=", "!!set {a}", "? [1]\n: 2", "!!int ''", "!!python/name:os.system", "a: ["]
)
def test_yaml_of_other_types_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_yaml(text)


def test_plain_yaml() -> None:
    text = "a: &x [1, 2.5, null, true, é]\nb: *x\n1: ${oc.env:HOME}\n"
    part = [1, 2.5, None, True, "é"]
    assert parse_yaml(text) == {"a": part, "b": part, 1: "${oc.env:HOME}"}


def test_json_has_no_infinities_halves_of_characters_or_depths() -> None:
    assert parse_json('{"a": [NaN, -Infinity, 1e999, 1.5], "b": "\\ud800x"}') == {
        "a": [None, None, None, 1.5],
        "b": "?x",
    }
    for text in ("[" * 5000, "[" * 300 + "]" * 300):
        with pytest.raises(ValueError, match="at most 100 levels"):
            parse_json(text)


@pytest.mark.parametrize("kind", SPECIAL)
def test_nobody_waits_for_what_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.json"
    SPECIAL[kind](path)
    if kind != "nowhere":  # as good as no file
        with pytest.raises(ValueError, match=r"catalogue\.json"):
            read_object(path)
    with pytest.raises((ValueError, OSError)):
        read_yaml(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(path)
    if kind != "large":
        with pytest.raises((ValueError, OSError)):
            open_plain_file(path)
    (tmp_path / "records.jsonl").symlink_to(path)
    if kind == "nowhere":
        assert RunFolder(tmp_path).records() == []
    else:
        with pytest.raises(ValueError, match=r"cannot be read|plain file"):
            RunFolder(tmp_path).records()
    assert RunFolder(tmp_path).last_recorded_step() == 0


@pytest.mark.parametrize(
    "line",
    [
        *(
            '{"step": 1e3, "probe": "a"}',
            '{"step": 1, "probe": "../a"}',
            '{"step": 1, "probe": "a\\nb"}',
            '{"step": 1}',
        ),
        *('{"step": 1, "probe": "a", "values": {"x": [1]}}', '{"step": 1, "probe": "a", "values": {"x": {}}}'),
        *('{"step": 1, "probe": "a", "values": {"x": "1"}}', '{"step": 1, "probe": "a", "values": {"a/b": 1}}'),
        *('{"step": 1, "probe": "a", "conventions": {"num_steps": [1]}}', '{"step": true, "probe": "a"}', "NaN", "3"),
        *('{"step": 1, "probe": "a", "conventions": {"image_shape": "abc"}}', '{"step": 1, "probe": "a", "error": 1}'),
        f'{{"step": {10**30}, "probe": "a"}}',
        f'{{"step": 1, "probe": "a", "values": {{"x": {10**400}}}}}',
    ],
)
def test_a_record_of_other_types_is_refused(line: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_record(line)
    assert "\n" not in str(caught.value)


def test_values_that_are_not_finite_are_null() -> None:
    record = read_record('{"step": 1, "probe": "a", "values": {"x": NaN, "y": 1e999, "z": 2}, "step": 2}')
    assert (record["step"], record["values"]) == (2, {"x": None, "y": None, "z": 2})


def test_an_archive_that_is_larger_inside_than_outside(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", b"0" * 10**6)
    with pytest.raises(ValueError, match="parts must not be larger than the file"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"images-00000.npy"', '"../../images-00000.npy"'),
        ('"image_size": 8', '"image_size": "8"'),
        ('"image_size": 8', f'"image_size": {2**70}'),
        ('"count": 2', f'"count": {2**70}'),
        ('"count": 2', '"count": null'),
        ('"unreadable": []', '"unreadable": [1]'),
        ("{", "["),
    ],
)
def test_a_manifest_of_a_prepared_set_is_data(old: str, new: str, tmp_path: Path) -> None:
    identity = '{"source_sha256": "0", "num_entries": 2, "image_size": 8, "images_per_shard": 2, "decoding_version": 1}'
    shard = '{"file": "images-00000.npy", "count": 2, "sha256": "0", "unreadable": []}'
    text = f'{{"format": "probediff images 1", "identity": {identity}, "shards": [{shard}]}}'
    (tmp_path / "manifest.json").write_text(text)
    assert read_manifest(tmp_path).num_images == 2
    (tmp_path / "manifest.json").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=r"whose manifest.json cannot be used .*; delete the folder and"):
        read_manifest(tmp_path)
    (tmp_path / "images-00000.json").write_text(shard.replace(old, new))
    os.mkfifo(tmp_path / "images-00001.json")
    assert list(finished_shards(tmp_path)) in ([], [0])
