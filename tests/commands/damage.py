"""Damage to the files of a run, as transfers, full disks, editors and strangers do it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

#: What stands where something else should: every type of JSON, at its ends.
VALUES = st.sampled_from(
    [
        *(None, True, False, 0, -1, 3, 1.5, 10**400, -(10**30), 1e308, float("nan"), float("inf")),
        *("", "a", "\u0000", "\ud800", "a/b", "../x", "${oc.env:HOME}", "os.system", "$x_", "9" * 5000, "a\nb", "=1"),
        *([], [[]], [1, "a"], {}, {"a": {"b": []}}, {"class_path": "os.system", "init_args": {}}, {"": 1}),
    ]
)
_NESTED = "[" * 5000
_LAUGHS = "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else 'x'}]\n" for k in range(30))
_MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k}\n  <<: [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
_TEXTS = [b"", b"\n", b"\x00" * 100, b"\xff\xfe\x80", b"null", b"[]", b"{}", b"3", b'"a"', b"a: [", b"NaN", b"{{}}"]
_TEXTS += [_NESTED.encode(), _LAUGHS.encode(), _MERGES.encode(), b"&a [*a]", b"&a {b: *a}", b"2024-01-01", b"!!int ''"]
_TEXTS += [b"!!python/object/apply:os.system ['true']", b"a: !!binary aGk=", b"? [1]\n: 2", b'{"a": 1, "a": 2}']


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, Callable[[Path], None]]:
    """A name for people, and what damages a file."""
    kind = draw(st.sampled_from(["value", "value", "value", "truncate", "flip", "text", "delete", "special"]))
    if kind == "value":
        place, value = draw(st.integers(0, 10**6)), draw(VALUES)
        return f"value {place} is {str(value)[:30]!r}", lambda path: replace_value(path, place, value)
    if kind == "truncate":
        share = draw(st.integers(0, 999)) / 1000
        return f"cut at {share}", lambda path: os.truncate(path, int(path.stat().st_size * share))
    if kind == "flip":
        place, bit = draw(st.integers(0, 9999)) / 10000, draw(st.integers(0, 7))
        return f"bit {bit} at {place}", lambda path: flip(path, place, bit)
    if kind == "text":
        text = draw(st.sampled_from(_TEXTS))
        return f"content {text[:30]!r}", lambda path: _overwrite(path, text)
    if kind == "delete":
        return "gone", Path.unlink
    name = draw(st.sampled_from(list(SPECIAL)))
    return name, lambda path: _special(path, name)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "large": lambda path: (path.touch(), os.truncate(path, 2**40)),
    "nowhere": lambda path: path.symlink_to("nowhere"),
}


def _special(path: Path, name: str) -> None:
    path.unlink()
    SPECIAL[name](path)


def _overwrite(path: Path, text: bytes) -> None:
    path.write_bytes(text)


def flip(path: Path, place: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[int(len(content) * place)] ^= 1 << bit
        path.write_bytes(content)


def replace_value(path: Path, place: int, value: Any) -> None:
    """Another value, or another key, in one place of YAML, of JSON, or of one line of JSON."""
    if path.suffix == ".yaml":
        content = yaml.safe_load(path.read_text())
        _replace(content, place, value)
        path.write_text(yaml.dump(content))
    elif path.suffix == ".json":
        content = json.loads(path.read_text() or "{}")
        _replace(content, place, value)
        path.write_text(json.dumps(content))
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        content = json.loads(lines[place % len(lines)])
        _replace(content, place // len(lines), value)
        lines[place % len(lines)] = json.dumps(content)
        path.write_text("\n".join(lines) + "\n")
    else:
        flip(path, place / 10**6 * 0.99, 3)


def _replace(content: Any, place: int, value: Any) -> None:
    places = list(_places(content))
    if places:
        owner, key = places[place % len(places)]
        if place % 11 == 0 and isinstance(owner, dict):
            owner[str(value)] = owner.pop(key)
        else:
            owner[key] = value


def _places(content: Any) -> list[tuple[Any, Any]]:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [(content, key) for key in keys] + [place for key in keys for place in _places(content[key])]


def copy_run(run: Path, target: Path) -> Path:
    """A copy with every kind of file that a run may have."""
    shutil.copytree(run, target)
    lineage = {"id": "a/b", "sweep": "a", "trial": "b", "continues": ["c"], "values": {"seed_everything": 1}}
    (target / "lineage.json").write_text(json.dumps(lineage))
    history = [{"step": 2, "at": "now", "by": "me", "changed": {"trainer.max_steps": {"from": 2, "to": 4}}}]
    (target / "config.history.yaml").write_text(yaml.safe_dump(history))
    return target
