"""One table, four ways: Markdown, LaTeX, CSV and HTML."""

import csv
import html
import io
import re
from dataclasses import dataclass

from probediff.display.text import escape, printable, spreadsheet_cell
from probediff.report.groups import Estimate

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
        """Numbers in full; a column of means has its spread and count in two columns of their own."""
        spread = [_spread_of([row[k] for row in self.rows]) for k in range(len(self.header))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([name for text, of in zip(self.header, spread, strict=True) for name in _names(text, of)])
        for row in self.rows:
            writer.writerow([part for cell, of in zip(row, spread, strict=True) for part in _parts(cell, bool(of))])
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


def html_text(text: str) -> str:
    """Text for HTML, also between quotation marks; control characters, which HTML does not have, are spelt out."""
    return html.escape(printable(text, keep="\n"), quote=True)


def _spread_of(column: list[Cell]) -> str:
    """What the spread in a column is called; empty where it has none."""
    return next((cell.spread for cell in column if isinstance(cell, Estimate)), "")


def _names(text: str, spread: str) -> list[str]:
    shown = spreadsheet_cell(text)
    return [shown, f"{shown}, {spread}", f"{shown}, n"] if spread else [shown]


def _parts(cell: Cell, wide: bool) -> list[str]:
    if isinstance(cell, Estimate):
        return [repr(cell.mean), "" if cell.std is None else repr(cell.std), "" if cell.n is None else str(cell.n)]
    text = "" if cell is None else repr(cell) if isinstance(cell, float) else spreadsheet_cell(str(cell))
    return [text, "", ""] if wide else [text]


def _markdown(text: str) -> str:
    return _MARKS.sub(r"\\\g<0>", printable(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c if c.isascii() else _latex(escape(c))) for c in printable(text))
