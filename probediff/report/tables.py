"""One table, four ways: Markdown, LaTeX, CSV and HTML."""

import csv
import html
import io
from dataclasses import dataclass

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
    "²": "$^2$",
}


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
        lines = [self.header, tuple(["---"] + ["---:"] * (len(self.header) - 1)), *self._texts()]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"{self.caption}\n\n{body}\n"

    def latex(self) -> str:
        """A table environment that needs no package."""
        header, *rows = [" & ".join(map(_latex, line)) + r" \\" for line in (self.header, *self._texts())]
        columns = "l" + "r" * (len(self.header) - 1)
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(self.caption)}}}"]
        lines += [rf"\begin{{tabular}}{{{columns}}}", r"\hline", header, r"\hline", *rows, r"\hline"]
        return "\n".join([*lines, r"\end{tabular}", r"\end{table}", ""])

    def csv(self) -> str:
        """Numbers in full; a column of means has its spread and count in two columns of their own."""
        spread = [any(isinstance(row[k], Estimate) for row in self.rows) for k in range(len(self.header))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([name for text, wide in zip(self.header, spread, strict=True) for name in _names(text, wide)])
        for row in self.rows:
            writer.writerow([part for cell, wide in zip(row, spread, strict=True) for part in _parts(cell, wide)])
        return out.getvalue()

    def html(self) -> str:
        """A table that scrolls sideways where it is wider than the screen."""
        head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in self.header)
        body = "".join(
            f'<tr><th scope="row">{html.escape(first)}</th>{"".join(f"<td>{html.escape(c)}</td>" for c in rest)}</tr>\n'
            for first, *rest in self._texts()
        )
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(self.caption, quote=True)}">'
            f"<table><caption>{html.escape(self.caption)}</caption>\n"
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


def _names(text: str, wide: bool) -> list[str]:
    return [text, f"{text}, std", f"{text}, n"] if wide else [text]


def _parts(cell: Cell, wide: bool) -> list[str]:
    if isinstance(cell, Estimate):
        return [repr(cell.mean), "" if cell.std is None else repr(cell.std), "" if cell.n is None else str(cell.n)]
    text = "" if cell is None else repr(cell) if isinstance(cell, float) else str(cell)
    return [text, "", ""] if wide else [text]


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    return escaped.encode("ascii", "replace").decode()
