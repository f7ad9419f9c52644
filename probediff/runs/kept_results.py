"""Results of an analysis that are there already: compared with what is asked for, and never overwritten."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from probediff.files import explain_disk_errors, open_plain_file, read_json, write_json
from probediff.runs.conditions import CONDITIONS, NAMES, WEIGHTS, as_json
from probediff.runs.lock import lock_writes

T = TypeVar("T")

#: Key of a result: SHA-256 of the files beside it, by name.
FILES = "files"
_NAMES_IN_FULL = ("statistics.source", "search.statistics.source")
_NOT_SET = "nothing"
_SHOWN = 5


def read_result(path: Path, kind: type[T]) -> T | None:
    """Content of a result file; None where there is none.

    Raises:
        ValueError: it is damaged, or holds something else than a ``kind``.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damage_error(path, error) from error
    if not isinstance(content, kind):
        raise _damage_error(path, f"a {kind.__name__} was expected, got a {type(content).__name__}")
    return content


def check_same_settings(path: Path, there: Any, wanted: Mapping[str, Any]) -> list[str]:
    """Make sure that the results in ``path`` are those that a command would compute.

    Args:
        path: the result file.
        there: the conventions in it.
        wanted: those of the command; nested ones are compared part by part.

    Returns:
        A sentence for each condition that is another one now, which may change the rounding.

    Raises:
        ValueError: settings differ, or the file does not say them, as files of earlier versions.
    """
    if not isinstance(there, Mapping):
        raise _damage_error(path, f"it has no conventions, but {str(there)[:80]!r}")
    theirs, ours = _flatten(there), _flatten(as_json(wanted))
    if WEIGHTS not in map(_last, theirs):
        raise _from_earlier_version(path, "which weights")
    # Some digests are known only when the work is done.
    known = [key for key in theirs if not (key not in ours and key.endswith("sha256"))]
    keys = [key for key in dict.fromkeys([*ours, *known]) if not _is_name(key)]
    differing = [key for key in keys if theirs.get(key, _NOT_SET) != ours.get(key, _NOT_SET)]
    settings = [key for key in differing if _last(key) not in CONDITIONS]
    if settings and all(key not in theirs for key in settings):
        raise _from_earlier_version(path, settings[0])
    values = {key: (theirs.get(key, _NOT_SET), ours.get(key, _NOT_SET)) for key in differing}
    if settings:
        shown = "; ".join(f"{key} is {values[key][0]} there and {values[key][1]} now" for key in settings[:_SHOWN])
        raise ValueError(
            f"--out must be a folder without results of other settings, got {path}: {shown}; "
            f"give another --out, or remove {path}"
        )
    return [
        f"{key} was {old} there and is {new} now, which may change the last digits"
        for key, (old, new) in values.items()
        if key in theirs
    ]


def show_result(
    path: Path,
    wanted: Mapping[str, Any],
    describe: Callable[[dict[str, Any]], str],
    settings_of: Callable[[dict[str, Any]], Any] = itemgetter("conventions"),
) -> bool:
    """Print the result that is in ``path`` if it is the one that is asked for.

    Args:
        path: the result file.
        wanted: what the command would record as its conventions.
        describe: the words for a result.
        settings_of: where a result has its conventions.

    Returns:
        Whether there is one; if not, it has to be computed.

    Raises:
        ValueError: it has other settings, or is damaged, or a file that belongs to it is not as it was written.
    """
    result = read_result(path, dict)
    if result is None:
        return False
    with explain_damage(path):
        there = settings_of(result)
    conditions = check_same_settings(path, there, wanted)
    with explain_damage(path):
        words = describe(result)
    _check_files(path, result)
    print("\n".join([words, "", f"This result is there already: {path}", *conditions]))
    return True


def _check_files(path: Path, result: dict[str, Any]) -> None:
    with explain_damage(path):
        files = {Path(name).name: str(digest) for name, digest in result.get(FILES, {}).items()}
    for name, digest in files.items():
        try:
            actual = _digest(path.with_name(name))
        except (OSError, ValueError) as error:
            raise _damage_error(path.with_name(name), getattr(error, "strerror", error), remove=path) from error
        if actual != digest:
            reason = f"it is not the one that was written with {path.name}"
            raise _damage_error(path.with_name(name), reason, remove=path)


def write_result(path: Path, result: dict[str, Any], beside: Sequence[str]) -> None:
    """Write a result file, with the checksums of the files beside it that belong to it, which are there already."""
    write_json(path, result | {FILES: {name: _digest(path.with_name(name)) for name in beside}})


def _digest(path: Path) -> str:
    with open_plain_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Tell what goes wrong with the content of a result file as damage of it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise _damage_error(path, f"{type(error).__name__}: {error}") from error


@contextmanager
def lock_results(folder: Path) -> Iterator[None]:
    """Write results into a folder while nobody else does; the file that says what they are comes last.

    Raises:
        OSError: there is no space left, or the folder cannot be written to.
    """
    with explain_disk_errors(folder, "--out"), lock_writes(folder):
        yield


def _flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, and lists of them, as one with dots in its keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            value = {str(index): part for index, part in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{name}": part for name, part in _flatten(value).items()}
        else:
            flat[key] = value
    return flat


def _is_name(key: str) -> bool:
    return _last(key) in NAMES or key in _NAMES_IN_FULL


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _damage_error(path: Path, reason: object, remove: Path | None = None) -> ValueError:
    cure = f"remove {remove or path}, or give another --out"
    return ValueError(f"{path} must hold results of this command, got a damaged file ({reason}); {cure}")


def _from_earlier_version(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} was written by an earlier version, which did not record {what}, so that there is no telling whether "
        f"its results are those that are asked for; give another --out, or remove {path}"
    )
