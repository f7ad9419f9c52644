"""Text of a user or a file, made fit for where it is shown: a terminal, a spreadsheet, a legend."""

import re
import unicodedata

#: Unicode categories that act on a terminal, turn the direction of text or are invisible, and halves of letters.
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: Where a spreadsheet may begin a cell, and what it takes for the beginning of a formula there, in full width too.
_FORMULA = re.compile("(^|;)(?=[=+@\uff1d\uff0b\uff0d\uff20-])")


def escape(letter: str) -> str:
    r"""A character as Python spells it: ``\x1b``, ``\n``, ``\u4e2d``."""
    return letter.encode("unicode_escape").decode()


def printable(text: str, keep: str = "") -> str:
    r"""The text with everything that acts or hides spelt out: a name cannot clear a screen or break a table.

    Args:
        text: of any origin.
        keep: characters that stay, such as line breaks.
    """
    return "".join(c if c in keep or unicodedata.category(c) not in _ACTING else escape(c) for c in text)


def shorten(text: str, most: int) -> str:
    """At most so many characters: the middle is left out, for names differ at their ends."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - 1 - end]}…{text[-end:]}"


def spreadsheet_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: an apostrophe stands before what begins one; numbers stay."""
    shown = printable(text)
    return shown if _NUMBER.fullmatch(shown) else _FORMULA.sub(r"\1'", shown)
