"""Where images come from: folders, links and tars give the same set, and damage is named."""

import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from probediff.prepare.images import prepare_images
from probediff.prepare.sources import list_entries, list_images, read_entry
from probediff.prepare.walking import LeftOut
from tests.prepare.tiny_sets import add, contents, pixels, prepared


def test_dangling_links_and_odd_names(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    Image.fromarray(pixels(0)).save(folder / "a\tb\n.png")
    (folder / "c\td.png").symlink_to(tmp_path / "absent")
    (folder / "._a.png").write_text("a companion file of macOS")
    manifest = prepare_images(folder, tmp_path / "out", 8, 1)
    assert manifest.num_images == 1
    assert (tmp_path / "out" / "unreadable.tsv").read_text() == "name\treason\nc\\td.png\tNo such file or directory\n"


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


def test_every_use_walks_a_folder_alike(tmp_path: Path) -> None:
    """Training and editing list images, preparing lists entries: nested and linked ones, and no junk."""
    folder = tmp_path / "source"
    elsewhere = tmp_path / "elsewhere"
    names = ["b/10.bmp", "b/2.png", "c/d/e.webp", "a.PNG"]
    junk = ["._a.PNG", "b/._2.png", "c/d/.e.webp", ".hidden/a.JPEG", "__MACOSX/a.png", ".DS_Store", "Thumbs.db"]
    for name in [*names, *junk, "b/notes.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")
    elsewhere.mkdir()
    (elsewhere / "f.png").write_bytes(b"123")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "g.png").symlink_to(elsewhere / "f.png")
    (folder / "dangling.png").symlink_to(tmp_path / "absent")
    (folder / "loop.png").symlink_to("loop.png")
    expected = {name: 5 for name in names} | {"linked/f.png": 3, "g.png": 3, "dangling.png": 0, "loop.png": 0}
    left_out, again = LeftOut(), LeftOut()
    images = list_images(folder, left_out)
    assert [(file.relative_path, file.num_bytes) for file in images] == sorted(expected.items())
    assert [(entry.name, entry.num_bytes) for entry in list_entries(folder, again)] == sorted(expected.items())
    assert left_out.counts == again.counts == {"hidden": 6, "of other types": 2}
    assert str(left_out) == "6 hidden ('.DS_Store'); 2 of other types ('Thumbs.db')"
    times = {file.relative_path: file.modified_ns for file in images}
    assert times["dangling.png"] == 0
    assert times["g.png"] == times["linked/f.png"] == (elsewhere / "f.png").stat().st_mtime_ns


def test_tars_hold_what_unpacking_them_gives(tmp_path: Path) -> None:
    """Junk, pipes, links and names that lead outside are left out and counted; the later of two files counts."""
    folder, archive = tmp_path / "source", tmp_path / "all.tar"
    folder.mkdir()
    with tarfile.open(archive, "w") as tar:
        for seed, name in enumerate(
            ["a.png", "/b.png", "a.png", "._a.png", "__MACOSX/x/a.png", "../../c.png", "t.txt"]
        ):
            Image.fromarray(pixels(seed)).save(tmp_path / "image.png")
            add(tar, name, (tmp_path / "image.png").read_bytes())
            if name in ("a.png", "/b.png", "t.txt"):
                (folder / name.strip("/")).write_bytes((tmp_path / "image.png").read_bytes())
        for kind, name in (
            (tarfile.FIFOTYPE, "pipe.png"),
            (tarfile.CHRTYPE, "device.png"),
            (tarfile.SYMTYPE, "link.png"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.png"
            tar.addfile(member)
    left_out = LeftOut()
    entries = list_entries(archive, left_out)
    assert [entry.name for entry in entries] == ["a.png", "b.png"]
    assert [read_entry(archive, entry) for entry in entries] == [
        (folder / entry.name).read_bytes() for entry in entries
    ]
    assert left_out.counts == {
        "hidden": 2,
        "links, odd names or gaps in a tar": 2,
        "of other types": 1,
        "pipes, sockets or devices": 2,
        "replaced by a later file of that name in a tar": 1,
    }


def test_pipes_are_no_sources(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ValueError, match=r"pipe.tar must be a plain file, got a pipe; name a file"):
        prepare_images(tmp_path / "pipe.tar", tmp_path / "out", 8, 1)
    with pytest.raises(
        FileNotFoundError, match=r"none found but 1 pipes, sockets or devices \('pipe.tar'\); give a folder of images"
    ):
        prepare_images(tmp_path, tmp_path.with_name("out"), 8, 1)
