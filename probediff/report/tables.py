"""One table, four ways: Markdown, LaTeX, CSV and HTML."""

import csv
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probediff.display.text import escape, printable, spreadsheet_cell
from probediff.report.groups import STD, Estimate
from probediff.report.published import UNDEFINED_SPREAD

Cell = str | int | float | Estimate | None

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "→": r"$\to$",
    "−": "$-$",
    "–": "--",
    "°": r"$^\circ$",
    "×": r"$\times$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "²": "$^2$",
    "|": "$|$",
}
#: Column of standard errors in CSV.
_ERROR = "standard error"
#: What Markdown would take for a mark, a tag, a formula or the end of a cell; inside a word ``_`` is a letter.
_MARKS = re.compile(r"[\\`*|<$~]|&(?=#?\w+;)|(?<=])\(|(?<![^\W_])_|_(?![^\W_])")


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column names the rows.

    Attributes:
        name: stem of its files.
        caption: one sentence.
        header: one text a column.
        rows: cells; None is shown as a dash and is empty in CSV.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"table {self.name}: every row must have {len(self.header)} cells")

    def markdown(self) -> str:
        """GitHub's pipe table."""
        header, *rows = [" | ".join(map(_markdown, line)) for line in (self.header, *self._texts())]
        rule = " | ".join(["---"] + ["---:"] * (len(self.header) - 1))
        body = "\n".join(f"| {line} |" for line in (header, rule, *rows))
        return f"{_markdown(self.caption)}\n\n{body}\n"

    def latex(self) -> str:
        """A table environment that needs no package."""
        lines = [" & ".join(map(_latex, line)) + r" \\" for line in (self.header, *self._texts())]
        # What follows the end of a row in brackets, or a star, would belong to that end.
        header, *rows = [f"{{}}{line}" if line.startswith(("[", "*")) else line for line in lines]
        columns = "l" + "r" * (len(self.header) - 1)
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(self.caption)}}}"]
        lines += [rf"\begin{{tabular}}{{{columns}}}", r"\hline", header, r"\hline", *rows, r"\hline"]
        return "\n".join([*lines, r"\end{tabular}", r"\end{table}", ""])

    def csv(self) -> str:
        """Numbers in full; standard errors, spread and count of a column of means have columns of their own."""
        further = [_further_columns([row[k] for row in self.rows]) for k in range(len(self.header))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(n for text, names in zip(self.header, further, strict=True) for n in _name_columns(text, names))
        for row in self.rows:
            writer.writerow(part for cell, names in zip(row, further, strict=True) for part in _parts(cell, names))
        return out.getvalue()

    def html(self) -> str:
        """A table that scrolls sideways where it is wider than the screen."""
        head = "".join(f'<th scope="col">{html_text(text)}</th>' for text in self.header)
        body = "".join(
            f'<tr><th scope="row">{html_text(first)}</th>{"".join(f"<td>{html_text(c)}</td>" for c in rest)}</tr>\n'
            for first, *rest in self._texts()
        )
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{html_text(self.caption)}">'
            f"<table><caption>{html_text(self.caption)}</caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
            f'<p class="files">tables/{self.name}.csv, .md, .tex</p>\n'
        )

    def _texts(self) -> list[tuple[str, ...]]:
        return [tuple(cell_text(cell) for cell in row) for row in self.rows]


def cell_text(cell: Cell) -> str:
    """A cell as people read it."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if cell.is_integer() and abs(cell) < 1e15 else f"{cell:.4g}"
    return str(cell)


def tell_spread(rows: Iterable[Sequence[Cell]], over: str = "fresh noises") -> str:
    """What ± means in the cells: the end of their caption, without a full stop.

    Args:
        rows: the cells.
        over: what standard errors are over.
    """
    cells = [cell for row in rows for cell in row if isinstance(cell, Estimate)]
    ours = [cell for cell in cells if cell.spread == STD]
    words = "mean ± std over runs (number of runs)"
    if any(cell.error is not None for cell in ours):
        spreads = [cell.error for cell in ours if cell.std is not None]
        over_runs = ["'seeds ±'"] if any(error is not None for error in spreads) else []
        over_runs += ["± alone before a number of runs"] if None in spreads else []
        words = f"± is the standard error over {over}, as many as were probed"
        if over_runs:
            words += (
                f"; {' and '.join(over_runs)} the sample standard deviation over runs (n - 1), their number behind it"
            )
    return words + (
        f"; published: {UNDEFINED_SPREAD}" if any(cell.spread == UNDEFINED_SPREAD for cell in cells) else ""
    )


def html_text(text: str) -> str:
    """Text for HTML, also between quotation marks; control characters, which HTML does not have, are spelt out."""
    return html.escape(printable(text, keep="\n"), quote=True)


def _further_columns(column: list[Cell]) -> tuple[str, ...]:
    """Names of the columns beside one of means; none beside any other."""
    means = [cell for cell in column if isinstance(cell, Estimate)]
    errors = (_ERROR,) if any(mean.error is not None for mean in means) else ()
    return (*errors, means[0].spread, "n") if means else ()


def _name_columns(text: str, further: tuple[str, ...]) -> list[str]:
    shown = spreadsheet_cell(text)
    return [shown, *(f"{shown}, {name}" for name in further)]


def _parts(cell: Cell, further: tuple[str, ...]) -> list[str]:
    if isinstance(cell, Estimate):
        errors = (cell.error,) if _ERROR in further[:-2] else ()
        return ["" if number is None else repr(number) for number in (cell.mean, *errors, cell.std, cell.n)]
    text = "" if cell is None else repr(cell) if isinstance(cell, float) else spreadsheet_cell(str(cell))
    return [text, *("" for _ in further)]


def _markdown(text: str) -> str:
    return _MARKS.sub(r"\\\g<0>", printable(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c if c.isascii() else _latex(escape(c))) for c in printable(text))
