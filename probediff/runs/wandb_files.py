"""Reads W&B's local logs, for which W&B has no Python reader: what the folder of a run proves that W&B got.

Online and offline alike, each start of a W&B run writes ``wandb/[offline-]run-<time>-<id>/run-<id>.wandb``: the format
of LevelDB's logs, 32 KiB blocks of chunks (checksum, length, kind), one or several of which make a message, which is a
protocol buffer. A process that is killed leaves it cut short at any byte, or without its last 32 KiB.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probediff.files import open_plain_file
from probediff.runs.folder import WANDB
from probediff.runs.record import ERROR_PREFIX
from probediff.runs.results import Event

_BLOCK, _FILE_HEADER = 32768, 7
_CHUNK_HEADER = struct.Struct("<IHB")
_KIND_AT = 6
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass(frozen=True)
class LoggedResult:
    """What W&B's log has of one probe at one step.

    Attributes:
        values: numbers by name.
        standard_errors: of some of them.
        pictures: files of the pictures by name.
    """

    values: dict[str, float] = field(default_factory=dict)
    standard_errors: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)


def read_logged_results(run_folder: Path, run_id: str, starts: Sequence[str] = ()) -> dict[Event, LoggedResult] | None:
    """What the local logs of one W&B run have of each event; of what was logged twice, the later.

    Args:
        run_folder: the run's own folder.
        run_id: id of the W&B run.
        starts: folders below ``wandb/`` that are known to have held logs.

    Returns:
        The results by event; None where there are no logs, or not all of them any more, or they cannot be opened.
    """
    paths = sorted(run_folder.glob(f"{WANDB}/*run-*/run-{run_id}.wandb"), key=lambda path: _start_time(path.parent))
    if not paths or not {path.parent.name for path in paths}.issuperset(starts):
        return None
    results: dict[Event, LoggedResult] = {}
    try:
        for path in paths:
            for record in read_records(path):
                if record.WhichOneof("record_type") == "history":
                    _collect(history_row(record), path.parent / "files", results)
    except (OSError, ValueError):
        return None
    return results


def _start_time(folder: Path) -> str:
    return folder.name.removeprefix("offline-")


def _collect(row: dict[str, Any], media: Path, results: dict[Event, LoggedResult]) -> None:
    step = row.get("trainer/global_step")
    if not isinstance(step, int):
        return
    for key, value in row.items():
        head, _, rest = key.partition("/")
        probe, _, name = rest.partition("/")
        if head not in ("probe", ERROR_PREFIX) or not name:
            continue
        result = results.setdefault((step, probe), LoggedResult())
        if isinstance(value, int | float) and "/" not in name:
            (result.values if head == "probe" else result.standard_errors)[name] = value
        elif name.endswith("/path") and row.get(f"{key.removesuffix('/path')}/_type") == "image-file":
            result.pictures[name.removesuffix("/path")] = media / str(value)


def history_row(record: Any) -> dict[str, Any]:
    """The values of one logged step by key; a picture or a histogram is several, below its key."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def read_records(path: Path) -> Iterator[Any]:
    """W&B's records in one log, as protocol buffers; what is damaged is left out."""
    # Imported where it is used: --help would wait a second for it.
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    with open_plain_file(path) as file:
        content = file.read()
    for message in read_messages(content):
        try:
            yield Record.FromString(message)
        except DecodeError:
            continue


def read_messages(data: bytes) -> Iterator[bytes]:
    """Whole messages of a log.

    Where a chunk has not its checksum, its length means nothing either: reading goes on with the next block.
    """
    position, message = _FILE_HEADER, None
    while position + _CHUNK_HEADER.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK_HEADER.size:
            position += left
            continue
        checksum, length, kind = _CHUNK_HEADER.unpack_from(data, position)
        begin, end = position + _CHUNK_HEADER.size, position + _CHUNK_HEADER.size + length
        # W&B's checksum is the plain CRC-32 of kind and content, unlike LevelDB's own. Zeros do not have it.
        if end - position > left or zlib.crc32(data[position + _KIND_AT : end]) != checksum:
            position, message = position + left, None
            continue
        position = end
        if kind in (_FULL, _FIRST):
            message = data[begin:end]
        elif message is not None and kind in (_MIDDLE, _LAST):
            message += data[begin:end]
        if kind in (_FULL, _LAST) and message is not None:
            yield message
            message = None
