"""Where a class or a function of one's own is defined, so that a run's folder can say how its model is built again.

Nothing is imported here but by `import_source`, which is for names that the user trusts.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

CLASS_PATH, FILE, SHA256 = "class_path", "file", "file_sha256"
#: What a script is called, and what it is called where it is imported from its file.
_SCRIPT, _IMPORTED_SCRIPT = "__main__", "__probediff_main__"


def name_source(source: Callable[..., Any]) -> str:
    """What records call a class or function: the same whether its script runs or is imported."""
    module = source.__module__
    if module in (_SCRIPT, _IMPORTED_SCRIPT):
        module = Path(str(getattr(sys.modules[module], "__file__", None) or module)).stem
    return f"{module}.{source.__qualname__}"


def locate(source: Callable[..., Any]) -> dict[str, str]:
    """Import path of a class or function, and its file where it is no part of an installed package."""
    name = f"{source.__module__}.{source.__qualname__}"
    place = {CLASS_PATH: name}
    with suppress(TypeError, OSError):
        file = Path(inspect.getfile(inspect.unwrap(source))).resolve()
        if "site-packages" not in file.parts and file.is_file():
            place |= {FILE: str(file), SHA256: _digest(file)}
    return place


def is_importable(source: Callable[..., Any]) -> bool:
    """Whether another process can import it by its name, from its file if need be: no lambda, no inner one."""
    is_in_script = source.__module__ != _SCRIPT or FILE in locate(source)
    return source.__qualname__.isidentifier() and is_in_script


def import_source(place: Mapping[str, Any], where: str) -> Any:
    """The class or function that `locate` described; its module is run, so that only what is trusted may come here.

    Args:
        place: what `locate` returned, as it was stored.
        where: who names it, for messages.

    Raises:
        ValueError: it is not there, or its module cannot be imported.
    """
    module_name, _, name = str(place.get(CLASS_PATH, "")).rpartition(".")
    file = Path(str(place[FILE])) if FILE in place else None
    try:
        module = _import(module_name, file)
        return getattr(module, name)
    except Exception as error:
        raise ValueError(
            f"{where} must name a class or function that can be imported, got {place.get(CLASS_PATH)!r}"
            f"{f' of {file}' if file else ''}: {type(error).__name__}: {error}"
        ) from error


def has_changed(place: Mapping[str, Any]) -> bool:
    """Whether the file of a source is another one than when it was located; False where that is not known."""
    file = Path(str(place.get(FILE, "")))
    return FILE in place and file.is_file() and place.get(SHA256) != _digest(file)


def _import(module_name: str, file: Path | None) -> Any:
    if module_name != _SCRIPT:
        # An installed command does not look into the folder where it is called, as `python -m` does.
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if file is None or error.name != module_name.partition(".")[0]:
                raise
    if file is None or not file.is_file():
        raise ImportError(f"no module {module_name!r}" + (f", and no file {file}" if file else ""))
    # As multiprocessing imports the script of a parent: under another name, so that its guarded part does not run.
    if module_name == _SCRIPT and not _is_guarded(file):
        raise ImportError("it is a script without `if __name__ == '__main__':`, which would train again")
    name = _IMPORTED_SCRIPT if module_name == _SCRIPT else module_name
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(file):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_guarded(script: Path) -> bool:
    """Whether what a script does, and not only defines, is kept from whoever imports it."""
    return any(
        isinstance(part, ast.If) and any(getattr(name, "id", None) == "__name__" for name in ast.walk(part.test))
        for part in ast.parse(script.read_bytes()).body
    )


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
