"""Files: whole or not at all, with checksums, and read without running code."""

from probediff.files.checksums import digest_tensors, verify_tensors
from probediff.files.plain import check_plain_file, map_array, open_plain_file
from probediff.files.plain_data import parse_json, parse_yaml, read_bytes, read_json, read_object, read_yaml
from probediff.files.tensors import (
    PREFIXES,
    WRAPPERS,
    check_dense,
    load_strictly,
    load_tensors,
    load_whole,
    read_checkpoint,
    read_weights,
    save_tensors,
)
from probediff.files.whole import (
    NO_SPACE,
    PARTIAL,
    explain_disk_errors,
    lock_folder,
    remove_partials,
    to_json,
    whole_file,
    write_json,
)

__all__ = [
    "NO_SPACE",
    "PARTIAL",
    "PREFIXES",
    "WRAPPERS",
    "check_dense",
    "check_plain_file",
    "digest_tensors",
    "explain_disk_errors",
    "load_strictly",
    "load_tensors",
    "load_whole",
    "lock_folder",
    "map_array",
    "open_plain_file",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_checkpoint",
    "read_json",
    "read_object",
    "read_weights",
    "read_yaml",
    "remove_partials",
    "save_tensors",
    "to_json",
    "verify_tensors",
    "whole_file",
    "write_json",
]
