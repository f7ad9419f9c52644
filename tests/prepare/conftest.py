"""A source of four classes, as folders and as tars, and the set prepared from it."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.prepare.tiny_sets import add, make_source, prepared


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("prepare") / "source")


@pytest.fixture(scope="session")
def out(source: Path) -> Path:
    return prepared(source, source.parent / "out")


def class_tars(source: Path) -> dict[str, bytes]:
    tars = {}
    for folder in source.iterdir():
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path in folder.iterdir():
                add(tar, path.name, path.read_bytes())
        tars[f"{folder.name}.tar"] = buffer.getvalue()
    return tars


@pytest.fixture(scope="session")
def tars(source: Path) -> tuple[Path, Path]:
    """The official forms: one tar of class tars, and a folder of class tars."""
    together, apart = source.parent / "ILSVRC2012_img_train.tar", source.parent / "tars"
    apart.mkdir()
    with tarfile.open(together, "w") as tar:
        for name, content in class_tars(source).items():
            add(tar, name, content)
            (apart / name).write_bytes(content)
    return together, apart
