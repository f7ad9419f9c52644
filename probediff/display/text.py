"""Text of a user or a file, made fit for where it is shown: a terminal, a spreadsheet, a legend; rounded numbers."""

import re
import unicodedata

#: Unicode categories that act on a terminal, turn the direction of text or are invisible, and halves of letters.
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: Beyond these a number is shown with a power of ten.
_MOST_DECIMALS, _LARGEST_IN_FULL = 9, 1e15
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: Where a spreadsheet may begin a cell, and what it takes for the beginning of a formula there, in full width too.
_FORMULA = re.compile("(^|;)(?=[=+@\uff1d\uff0b\uff0d\uff20-])")


def round_by_error(number: float, error: float) -> str:
    """A number to the decimals at which its standard error has two significant digits, that error itself included.

    Beside an error that is a billion times smaller it has six digits.

    Args:
        number: finite.
        error: finite, above 0.
    """
    decimals = 1 - _exponent(error)
    if decimals <= _MOST_DECIMALS and abs(number) < _LARGEST_IN_FULL:
        return f"{round(number, decimals):z.{max(decimals, 0)}f}"
    digits = max(_exponent(number) + decimals, 0)
    return f"{number:.{digits}e}" if digits <= _MOST_DECIMALS else f"{number:.6g}"


def _exponent(number: float) -> int:
    """Of ten, once the number is rounded to two significant digits: 0 for 9.94, 1 for 9.96."""
    return int(f"{number:.1e}".partition("e")[2])


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
