"""A folder is walked once, whatever links, pipes and junk lie in it, and in whatever order the disk lists them."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probediff.prepare.walking import AGAIN, HIDDEN, OTHER_TYPE, SPECIAL, LeftOut, walk_images

FOLDERS = ["", "a", "a/b", "a/b/c", "z", ".git", "z/__MACOSX"]


def walk(folder: Path) -> tuple[list[str], dict[str, int]]:
    left_out = LeftOut()
    return sorted(file.relative_path for file in walk_images(folder, left_out)), left_out.counts


def test_a_link_to_the_folder_itself_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "above").symlink_to("..")
    (tmp_path / "root").symlink_to("/")
    assert walk(tmp_path) == (["a.png"], {AGAIN: 3})


def test_a_folder_counts_under_its_own_name_and_else_under_the_shortest_link(tmp_path: Path) -> None:
    """Names are classes: those without a link come first, then fewer folders, then the alphabet."""
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for folder in (source / "own" / "deep", elsewhere):
        folder.mkdir(parents=True)
        (folder / "x.png").touch()
    (source / "a_link").symlink_to("own/deep")
    (source / "own" / "b").symlink_to(elsewhere)
    (source / "d").symlink_to(elsewhere)
    (source / "c").symlink_to(elsewhere)
    assert walk(source) == (["c/x.png", "own/deep/x.png"], {AGAIN: 3})


def test_files_that_are_linked_are_images_of_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "c.png").hardlink_to(tmp_path / "a.png")
    assert walk(tmp_path) == (["a.png", "b.png", "c.png"], {})


def test_pipes_and_sockets_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a name of a socket must be short
    os.mkfifo("pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        assert walk(tmp_path) == ([], {SPECIAL: 4})


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rule for all: images that are there and cannot be seen are not left out in silence."""
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match=r"must be readable, got .*locked \(Permission denied\); change its permissions"):
        walk(tmp_path)


def test_what_is_left_out_is_told_in_one_line(tmp_path: Path) -> None:
    left_out = LeftOut()
    left_out.tell(tmp_path)
    for reason, path in ((SPECIAL, "p"), (HIDDEN, ".b"), (HIDDEN, ".a"), (HIDDEN, ".a"), (OTHER_TYPE, "odd\nname")):
        left_out.add(reason, path)
    with pytest.warns(UserWarning) as heard:
        left_out.tell(tmp_path)
    assert [str(warning.message) for warning in heard] == [
        f"left out of {tmp_path}: 2 hidden ('.a'); 1 of other types ('odd\\nname'); 1 pipes, sockets or devices ('p')"
    ]


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[str, str, str]]:
    """(kind, path, target) of what is put into the folders; targets are folders or files of the tree, or nothing."""
    names = st.sampled_from(["1.png", "2.JPG", "3.txt", ".4.png", "._5.png", "Thumbs.db", "link", "6.png"])
    kinds = st.sampled_from(["file", "fifo", "link", "link", "link"])
    targets = st.sampled_from([*FOLDERS, "a/1.png", "absent", "z/link", "..", "/dev/null", "link"])
    return draw(
        st.lists(st.tuples(kinds, st.tuples(st.sampled_from(FOLDERS), names).map("/".join), targets), max_size=9)
    )


def real_folders(folder: Path) -> set[Path]:
    """What can be reached through visible names, the slow way: a folder again and again, until nothing is new."""
    reached, news = set[Path](), {folder.resolve()}
    while news:
        reached |= news
        children = {Path(parent, name) for parent in reached for name in os.listdir(parent)}
        visible = {child for child in children if not child.name.startswith(".") and child.name != "__MACOSX"}
        news = {child.resolve() for child in visible if child.is_dir()} - reached - set(folder.resolve().parents)
    return reached


@given(trees(), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_any_tree_is_walked_once_in_any_order(entries: list[tuple[str, str, str]], random: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "source")
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for kind, path, target in entries:
            if os.path.lexists(folder / path):
                continue
            if kind == "file":
                (folder / path).touch()
            elif kind == "fifo":
                os.mkfifo(folder / path)
            else:
                (folder / path).symlink_to(target if target.startswith(("/", ".")) else folder / target)
        images, counts = walk(folder)
        expected = {
            (parent, name)
            for parent in real_folders(folder)
            for name in os.listdir(parent)
            if name.lower().endswith((".png", ".jpg")) and not name.startswith(".")
            if (parent / name).is_file() or not (parent / name).exists()
        }
        assert sorted(((folder / image).parent.resolve(), Path(image).name) for image in images) == sorted(expected)
        scandir = os.scandir

        class Shuffled:
            def __init__(self, path: Path) -> None:
                with scandir(path) as listing:
                    self.listing = list(listing)
                random.shuffle(self.listing)

            def __enter__(self) -> Any:
                return iter(self.listing)

            def __exit__(self, *_: object) -> None: ...

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "scandir", Shuffled)
            assert walk(folder) == (images, counts)
