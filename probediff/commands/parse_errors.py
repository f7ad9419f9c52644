"""Errors of the parser in one line: the option, what was expected, what came, and what to type."""

import ast
import difflib
import re
from collections.abc import Sequence
from typing import Any

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}
_EXAMPLES = {
    "data": "such as Digits, CIFAR10 or ImageFolder",
    "network": "a torch.nn.Module, such as diffusers.UNet2DModel, or net.TinyDiT of a file net.py",
    "optimizer": "such as torch.optim.SGD",
    "lr_scheduler": "such as torch.optim.lr_scheduler.CosineAnnealingLR",
}
_KEY = re.compile(r'Parser key "([\w.]+)"')
_KEY_COLON = re.compile(r'Parser key "([\w.]+)":\s*')
_EXPECTED = re.compile(r"Expected (?:a )?(<class '[\w.]+'>|typing\.Literal\[[^\]]*\]|dot import path string)")
_NO_CLASS = "Import path does not correspond to a subclass"
_FAILED = re.compile(r"Problem with given class_path '([\w.]+)':\s+(.+?)\s*\n\s*(?:- |Given )", re.DOTALL)
_GOT = re.compile(r"(?:Got value|Given value): (.*?)(?:\n|$)")
_NESTED = re.compile(r"NestedArg\(key=(.+), val=(.+)\)")


def explain(message: str, keys: Sequence[str]) -> str:
    """What jsonargparse says, as one line that names the option as it is typed.

    Args:
        message: its own, over several lines.
        keys: of all options.
    """
    message = message.replace(_NO_CLASS, "Expected a dot import path string")
    named, got = _KEY.findall(message), _GOT.findall(message)
    if refused := re.search(r"Problem with given class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", message):
        return f"--{named[0]}.{refused[2]} must be an option of {refused[1]}, which has none of that name"
    # The parser of the arguments of a class has explained its error already.
    if inner := re.search(r"Problem with given class_path .*:\s+--([\w.]+ must .*)", message):
        return f"--{named[0]}.{inner[1]}"
    if named and (words := _explain_class(message, named[0])):
        return words
    kinds = list(dict.fromkeys(filter(None, map(_kind, _EXPECTED.findall(message)))))
    if not (named and got and kinds):
        words = re.sub(r"Not of type \w+: ", "", _KEY_COLON.sub(r"--\1: ", " ".join(message.split())))
        return words + _suggestion(message, keys)
    key, value = ".".join(dict.fromkeys(named)), got[-1]
    if nested := _NESTED.fullmatch(value):
        value = _literal(nested[2])
        if not key.endswith(f".{_literal(nested[1])}"):
            key = f"{key}.{_literal(nested[1])}"
    cure = f"; write '{_as_list(value)}'" if "a list" in kinds and _as_list(value) else ""
    if "a class" in kinds:
        cure = f"; see --{key}.help"
        if key in _EXAMPLES:  # null is what they are where they are not given
            kinds, cure = ["a class"], f"; {_EXAMPLES[key]}"
    return f"--{key} must be {' or '.join(kinds)}, got {value!r}{cure}"


def _explain_class(message: str, key: str) -> str | None:
    """Why a class beside null is refused, where the library's last word is that it is not null; else None."""
    if "NoneType" in message and (failed := _FAILED.search(message)):
        name, reason = failed[1], " ".join(failed[2].split())
        if missing := re.fullmatch(r"the following arguments are required: (.*)", reason):
            return f"--{key}.{missing[1]} must be given for {name}, got none; see --{key}.help {name}"
        return f"--{key} must be a class that can be imported, got {name}: {reason}"
    if several := re.search(r"Multiple subclasses with name (\w+)\. .*?: (.*?)\.?\n", message):
        return f"--{key} must be the whole path of a class, got {several[1]}; such as {several[2]}"
    return None


def _kind(expected: str) -> str | None:
    if expected.startswith("typing.Literal"):
        return "one of " + ", ".join(map(str, _literal(expected.removeprefix("typing.Literal"))))
    if expected.startswith("dot import"):
        return "a class"
    return _KINDS.get(expected.removeprefix("<class '").removesuffix("'>"))


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _as_list(text: str) -> str | None:
    """``1,2``, ``1 2`` or ``(1,2)`` as the list that was meant; None for what is none."""
    parts = re.split(r"[,\s]+", text.strip("()[]{} ,"))
    return f"[{','.join(parts)}]" if all(re.fullmatch(r"[\w.=/+-]+", part) for part in parts) else None


def _suggestion(message: str, keys: Sequence[str]) -> str:
    if "does not exist" in message or "Path is not" in message:  # its words are those of a path
        return ""
    group = re.search(r"Group '([\w.]+)'", message)
    for word in re.findall(r"[\w.]*\w", message.split("Got value")[0]):
        full = f"{group[1]}.{word}" if group and not word.startswith(group[1]) else word
        close = difflib.get_close_matches(full, keys, n=1, cutoff=0.8)
        if close and full not in keys:
            return f" (did you mean --{close[0]}?)"
    return ""
