"""Reads what an offline W&B run stored, with W&B's own protocol buffers (its Python reader is gone)."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _FILE_HEADER, _CHUNK_HEADER = 32768, 7, 7
_FULL, _LAST = 1, 4


def _messages(data: bytes) -> Iterator[bytes]:
    """Messages of a LevelDB log: 32 KiB blocks of chunks (checksum, length, type), long messages in several chunks."""
    position, message = _FILE_HEADER, b""
    while position + _CHUNK_HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK_HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += _CHUNK_HEADER
        message += data[position : position + length]
        position += length
        if kind in (_FULL, _LAST):
            yield message
            message = b""


def history(run_folder: Path, timeout_sec: float = 60.0) -> list[dict[str, Any]]:
    """The logged steps of the one finished W&B run below ``run_folder``, as dictionaries.

    W&B writes from a process of its own, so this waits until the record of the run's exit is there.
    """
    (path,) = run_folder.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + timeout_sec
    while True:
        records = [Record.FromString(message) for message in _messages(path.read_bytes())]
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} has no exit record after {timeout_sec} s, only {len(records)} others")
        time.sleep(0.1)
    histories = (record.history.item for record in records if record.WhichOneof("record_type") == "history")
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in histories]
