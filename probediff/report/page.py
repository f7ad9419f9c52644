"""Writing a report: tables, figures and one page that holds them all."""

import base64
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import Template

from PIL import Image

from probediff import __version__
from probediff.files import whole_file
from probediff.report.groups import Comparison
from probediff.report.parts import Figure, Section, escaped
from probediff.report.tables import html_text

_MADE_BY = "Made by probediff"
_DPI = 140
_PICTURE_DPI = 100
#: So many pixels of the page an inch of a figure, that letters are equally large in all.
_PAGE_PX_PER_INCH = 105
_WIDE_INCHES = 5.5
#: A PNG beyond this is embedded as JPEG; the file beside the page stays PNG.
_LARGEST_PNG_BYTES = 300_000
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        page: ``index.html``.
        num_figures, num_tables: how many.
        num_bytes: size of the page.
    """

    page: Path
    num_figures: int
    num_tables: int
    num_bytes: int


def write_report(comparison: Comparison, sections: list[Section], out: Path, refresh_sec: int | None = None) -> Written:
    """Write everything below ``out``; each file appears whole or not at all.

    Args:
        comparison: the runs, for the heading.
        sections: what the page holds.
        out: made where it does not exist.
        refresh_sec: the page reloads itself after so many seconds; never by default.

    Raises:
        ValueError: ``out`` cannot be written to, or holds something else.
    """
    existing = out / "index.html"
    if existing.is_file() and _MADE_BY not in existing.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"--out must be new or hold an earlier report, got {out} with another index.html")
    figures = [figure for section in sections for figure in section.figures]
    embedded = {figure.name: _write_figure(figure, out) for figure in figures}
    tables = [table for section in sections for table in (*section.tables, *section.details)]
    for table in tables:
        for suffix, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
            _write(out, f"tables/{table.name}.{suffix}", text.encode())
    content = page(comparison, sections, embedded, refresh_sec).encode()
    _write(out, "index.html", content)
    return Written(out / "index.html", len(figures), len(tables), len(content))


def _write_figure(figure: Figure, out: Path) -> str:
    """PNG and PDF beside the page; returns the picture as a data URL."""
    dpi = _PICTURE_DPI if figure.is_picture else _DPI
    contents = {}
    # Axes are placed once: matplotlib would draw everything twice for each file.
    if (layout := figure.drawing.get_layout_engine()) is not None:
        figure.drawing.set_dpi(dpi)
        layout.execute(figure.drawing)
        figure.drawing.set_layout_engine(None)
    # Without dates the same records give the same bytes.
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        buffer = io.BytesIO()
        figure.drawing.savefig(buffer, format=suffix, dpi=dpi, metadata=metadata)
        contents[suffix] = buffer.getvalue()
        _write(out, f"figures/{figure.name}.{suffix}", contents[suffix])
    kind, data = "png", contents["png"]
    if len(data) > _LARGEST_PNG_BYTES:
        kind, data = "jpeg", _as_jpeg(data)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _as_jpeg(png: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def _write(out: Path, name: str, content: bytes) -> None:
    try:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out / name, sync=False) as file:
            file.write(content)
    except OSError as error:
        raise ValueError(f"--out must be a folder that can be written to, got {out}: {error}") from error


def page(
    comparison: Comparison, sections: list[Section], embedded: dict[str, str], refresh_sec: int | None = None
) -> str:
    """The page as HTML; ``embedded`` holds the data URL of each figure by name."""
    names = [run.name for run in comparison.runs]
    title = f"probediff: {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    origin = f"{_MADE_BY} {__version__} on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC."
    if refresh_sec:
        origin += f" This page reloads itself every {refresh_sec} seconds."
    return Template(_resource("page.html")).substitute(
        title=html_text(title),
        refresh=f'<meta http-equiv="refresh" content="{refresh_sec}">\n' if refresh_sec else "",
        style=_resource("page.css"),
        script=_resource("page.js"),
        origin=origin,
        contents="\n".join(_contents_entry(section) for section in sections),
        body="\n".join(_section(section, embedded) for section in sections),
    )


def _resource(name: str) -> str:
    """A file beside this module; the page holds it, for nothing is loaded from anywhere."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _contents_entry(section: Section) -> str:
    link = f'<a href="#{section.name}">{html_text(section.title)}</a>'
    return f'<li class="empty">{link} (not recorded)</li>' if section.is_empty else f"<li>{link}</li>"


def _section(section: Section, embedded: dict[str, str]) -> str:
    parts = [f'<section id="{section.name}" aria-labelledby="{section.name}-title">']
    parts.append(f'<h2 id="{section.name}-title">{html_text(section.title)}</h2>')
    parts += [f"<p>{escaped(text)}</p>" for text in section.text]
    if section.missing:
        parts.append('<ul class="missing">' + "".join(f"<li>{escaped(t)}</li>" for t in section.missing) + "</ul>")
    parts += [_figure(figure, embedded[figure.name]) for figure in section.figures]
    parts += [table.html() for table in section.tables]
    parts += [
        f"<details><summary>{html_text(table.caption)}</summary>\n{table.html()}</details>" for table in section.details
    ]
    return "\n".join([*parts, "</section>"])


def _figure(figure: Figure, source: str) -> str:
    # On narrow screens lines and letters stay legible: a wide figure shrinks so far and then scrolls in its card.
    kind = (
        "picture" if figure.is_picture else "curves wide" if figure.drawing.get_figwidth() > _WIDE_INCHES else "curves"
    )
    width, height = figure.drawing.get_size_inches() * (_PICTURE_DPI if figure.is_picture else _PAGE_PX_PER_INCH)
    size = f'width="{round(width)}" height="{round(height)}"'
    return (
        f'<figure><div class="card"><img class="{kind}" {size} src="{source}" '
        f'alt="{html_text(figure.alt)}"></div>\n'
        f'<figcaption>{escaped(figure.caption)} <span class="files">figures/{figure.name}.png, .pdf</span></figcaption>'
        f"</figure>"
    )
