"""JSON, YAML and bytes from files that strangers may have written: plain data, of bounded size and depth.

Nothing is imported, resolved or expanded, and nothing waits for a pipe.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import yaml

from probediff.files.plain import open_plain_file

#: Larger files are refused before they are read: those that this program writes have some kB.
MOST_JSON_BYTES, MOST_YAML_BYTES = 64 * 2**20, 2**20
_MOST_DEPTH = 100
_MOST_YAML_PARTS = 100_000
#: A half of a character that UTF-8 cannot write.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
#: Python takes long over larger numbers, and does not write them out.
_LARGEST = 2**1000


def read_bytes(path: Path, most: int = MOST_JSON_BYTES) -> bytes:
    """Content of a regular file of at most so many bytes; errors as of `open_plain_file`."""
    with open_plain_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{path} must have at most {most:,} bytes, got {size:,}; restore it, or remove it")
        return file.read(most)


def parse_json(text: str | bytes) -> Any:
    """Content of JSON; NaN and infinities, which JSON does not have, are None.

    Raises:
        ValueError: it is no JSON in UTF-8, or deeper than 100 levels.
    """
    words = text.decode() if isinstance(text, bytes) else text
    try:
        content = json.loads(words, parse_constant=lambda name: None, parse_float=_finite)
        if _SURROGATE.search(words):
            content = json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
        if words.count("[") + words.count("{") > _MOST_DEPTH:
            _plain(content, [len(words)])
    except RecursionError:
        raise _depth_error() from None
    return content


def read_json(path: Path) -> Any:
    """Content of a JSON file; errors as of `open_plain_file` and `parse_json`."""
    return parse_json(read_bytes(path))


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; restore it, or remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {str(content)[:40]}: damaged; restore it, or remove it")
    return content


def parse_yaml(text: str) -> Any:
    """Content of YAML as the types that JSON has.

    Raises:
        ValueError: it is no YAML; has other types, such as dates; or names its own parts so often or so deeply that
            it would grow without bounds.
    """
    try:
        return _plain(yaml.load(text, _PlainLoader), [_MOST_YAML_PARTS])
    except (yaml.YAMLError, LookupError, TypeError, AttributeError) as error:  # of words under tags such as !!int
        raise ValueError(f"it must be YAML, got: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise _depth_error() from None


def read_yaml(path: Path) -> Any:
    """Content of a YAML file; errors as of `open_plain_file` and `parse_yaml`."""
    return parse_yaml(read_bytes(path, MOST_YAML_BYTES).decode())


class _PlainLoader(yaml.SafeLoader):
    """Safe, and without merge keys, which multiply what they name."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("merge keys (<<) must not be used")


def _plain(value: Any, budget: list[int], depth: int = 0) -> Any:
    """A copy, of which no part is in two places; ``budget`` holds how many parts it may still have."""
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError(f"it must have at most {_MOST_YAML_PARTS:,} parts, got more: it repeats itself")
    if depth > _MOST_DEPTH:
        raise _depth_error()
    if isinstance(value, dict):
        return {_key(key): _plain(part, budget, depth + 1) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part, budget, depth + 1) for part in value]
    if isinstance(value, str):
        return _key(value)
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST):
        return value
    raise ValueError(f"it must hold text, numbers, lists and mappings, got a {type(value).__name__} that is none")


def _depth_error() -> ValueError:
    return ValueError(f"it must have at most {_MOST_DEPTH} levels, got more")


def _key(value: Any) -> Any:
    if not isinstance(value, str | int):
        raise ValueError(f"its keys must be text, got a {type(value).__name__}")
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
