"""A finished set is compared with its checksums."""

import shutil
from pathlib import Path

import pytest

from probediff.prepare.manifest import read_manifest, verify
from tests.prepare.tiny_sets import contents, prepared


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
