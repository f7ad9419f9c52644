"""Files: whole or not at all, with checksums, and read without running code."""

from probediff.files.checksums import digest_tensors, verify_tensors
from probediff.files.tensors import (
    PREFIXES,
    WRAPPERS,
    load_strictly,
    load_tensors,
    load_whole,
    read_checkpoint,
    read_weights,
    save_tensors,
)
from probediff.files.whole import PARTIAL, locked, remove_partials, whole_file, write_json, writing_to

__all__ = [
    "PARTIAL",
    "PREFIXES",
    "WRAPPERS",
    "digest_tensors",
    "load_strictly",
    "load_tensors",
    "load_whole",
    "locked",
    "read_checkpoint",
    "read_weights",
    "remove_partials",
    "save_tensors",
    "verify_tensors",
    "whole_file",
    "write_json",
    "writing_to",
]
