"""Text of a user or a file: nothing in it acts on what shows it."""

from __future__ import annotations

import csv
import html
import io
import re
import unicodedata
import warnings
from decimal import ROUND_HALF_EVEN, Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from probediff.commands.report import report
from probediff.commands.runs import runs
from probediff.display.text import printable, round_by_error, shorten, spreadsheet_cell
from probediff.editing.grids import labelled_grid, loss_curves
from probediff.pictures import label, lettering
from probediff.report.curves import draw
from probediff.report.drawings import draw_heat_maps, draw_picture, draw_triangles
from probediff.report.panels import Line, Panel
from probediff.report.parts import escaped
from probediff.report.spectra import draw_fit
from probediff.report.tables import Table
from tests.report.synthetic import config, write_run

NAMES = [
    *("$x$", r"\$", "$\\frac{$", "_hidden", "__", "a_b^c%{}&#~", "=1+1", "+1+1", "-1+1", "@cmd", "a;=1", "|b|", "`c`"),
    *(
        "<script>alert(1)</script>",
        '"&amp;',
        "[a](b)",
        "two\nlines",
        "\x1b[2J\x07",
        "\u202egnp",
        "中文🎉",
        "\udce9",
        "x" * 255,
        "",
    ),
]
texts = st.one_of(st.sampled_from(NAMES), st.text(st.characters(), max_size=30))


def acts(text: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


@given(texts)
def test_what_acts_is_spelt_out_and_the_rest_stays(text: str) -> None:
    shown = printable(text)
    assert not acts(shown)
    shown.encode()
    assert (shown == text) == (not acts(text))
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(texts, st.integers(5, 60))
def test_a_long_text_keeps_both_ends(text: str, most: int) -> None:
    short = shorten(text, most)
    assert len(short) <= most and (short == text) == (len(text) <= most)
    assert text.startswith(short.partition("…")[0]) and text.endswith(short.rpartition("…")[2])


@given(texts)
@example("-0.5")
def test_a_spreadsheet_finds_no_formula(text: str) -> None:
    cell = spreadsheet_cell(text)
    is_number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", printable(text))
    assert is_number or not re.search("(^|;)[=+@\uff1d\uff0b\uff0d\uff20-]", cell)
    assert re.sub("(^|;)'", r"\1", cell) == re.sub("(^|;)'", r"\1", printable(text))


@pytest.mark.parametrize("number", [-0.5, -3, "-0.5", "+2", "-1e-05", float("-inf")])
def test_negative_numbers_stay_numbers(number: float | str) -> None:
    rows = list(csv.reader(io.StringIO(Table("t", "c", ("a",), ((number,),)).csv())))
    assert float(rows[1][0]) == float(number)


@given(st.floats(-1e12, 1e12, allow_subnormal=False), st.floats(1e-290, 1e14))
@example(0.78812, 0.0996)
@example(12345.6, 123.0)
@example(0.5, 2e-12)
def test_a_number_has_the_decimals_of_two_digits_of_its_error(number: float, error: float) -> None:
    """By decimal arithmetic: the last of two digits of the error is the last digit of the number."""
    rounded = Decimal(f"{error:.1e}")
    unit = Decimal(1).scaleb(rounded.adjusted() - 1)
    assert Decimal(round_by_error(error, error)) == rounded
    shown = round_by_error(number, error)
    if "e" not in shown and unit > Decimal("1e-10"):
        exact = (Decimal(number) / unit).to_integral_value(ROUND_HALF_EVEN) * unit if unit > 1 else Decimal(number)
        assert abs(Decimal(shown) - exact) <= (0 if unit > 1 else unit / 2)
        assert len(shown.partition(".")[2]) == max(0, -unit.adjusted())
        assert shown.strip("-0.") or not shown.startswith("-")
    else:
        assert float(shown) == pytest.approx(number, rel=1e-5, abs=float(unit) / 2)


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


@given(texts, texts)
def test_a_table_has_its_cells_in_every_form(first: str, second: str) -> None:
    plain, table = Table("t", "c", ("a", "b"), (("x", "y"),)), Table("t", first, (first, "b"), ((second, first),))
    header, *rows = list(csv.reader(io.StringIO(table.csv())))
    assert header == [spreadsheet_cell(first), "b"] and rows == [[spreadsheet_cell(second), spreadsheet_cell(first)]]
    lines = table.markdown().split("\n")
    assert len(lines) == 6 and [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines[2:5]] == [3, 3, 3]
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*<$~]", table.markdown())
    latex = table.latex()
    assert latex.isascii() and len(latex.split("\n")) == len(plain.latex().split("\n"))
    bare = re.sub(r"\\[\\{}&%$#_]", "", latex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"^[\[*]", latex, re.MULTILINE)
    page = Reader(table.html())
    assert page.tags == Reader(plain.html()).tags
    assert printable(second, keep="\n") in page.words
    assert html.unescape(re.sub("</?code>", "", escaped(first))).replace("`", "") == printable(first, "\n").replace(
        "`", ""
    )


def drawn(figure: Figure) -> list[str]:
    """The texts of a figure, which can be drawn: without formulas, and without a letter that the font lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), dpi=40)
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def test_names_in_figures_are_letters() -> None:
    names = [name for name in NAMES if name]
    lines = tuple(Line(name, "single", {1: float(k), 10: 2.0}, {}, k) for k, name in enumerate(names))
    legend = drawn(draw([Panel(name, name, lines) for name in names[:2]]))
    assert {label(name, 40) for name in names} <= set(legend)
    heat_map = torch.rand(3, 2).numpy(), torch.arange(3).numpy(), torch.arange(2).numpy()
    figures = [
        draw_triangles({name: (60, 60, 60) for name in names[:3]}),
        draw_heat_maps({name: heat_map for name in names[:3]}),
        draw_picture(torch.zeros(8 * len(names), 8, 3).byte().numpy(), names),
        draw_fit({name: 0.5 for name in names}, {}),
        loss_curves(torch.arange(3), torch.rand(3, 10, 2) + 1, names[:10], "L2"),
    ]
    for figure in figures:
        drawn(figure)
    assert {label(name) for name in names[:10]} <= set(drawn(figures[-1]))


@given(texts)
def test_letters_that_the_font_lacks_are_told_apart(text: str) -> None:
    assert not acts(lettering(text)) and len(lettering(text)) <= 60
    assert lettering("中") != lettering("文") and lettering("λ_é") == "λ_é"
    assert not label(text).startswith("_") and label(text).count("$") == label(text).count(r"\$")


def test_names_in_grids_neither_fail_nor_widen_them() -> None:
    names, image = [name for name in NAMES if name], torch.zeros(1, 8, 8)
    picture = labelled_grid([[image] * len(names)] * len(names), names, names)
    assert picture.width < 500 + 80 * len(names)


def test_runs_with_odd_names_are_listed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    names = [name for name in NAMES if name and "/" not in name]
    for k, name in enumerate(names):
        run = write_run(folder / name, k, files=False, probes=("training",), steps=(0, 10))
        # So many keys differ that the names stand for the groups.
        (run / "config.yaml").write_text(yaml.safe_dump(config(k, **dict.fromkeys("abcd", k))))
    assert runs([str(folder)]) == 0
    listing = capsys.readouterr().out
    assert len(listing.splitlines()) == 2 + len(names) and not acts(listing.replace("\n", ""))
    assert report([str(folder), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "1 figures" in printed.out
    with (tmp_path / "out/tables/training.csv").open(newline="") as file:
        assert {row["runs"] for row in csv.DictReader(file)} == {spreadsheet_cell(name) for name in names}
