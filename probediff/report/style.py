"""Colours, style and the one small script of the page; nothing is loaded from anywhere."""

from __future__ import annotations

#: Text and link colours keep a contrast of 4.5:1 or more on every background of their scheme.
LIGHT = {
    "background": "#ffffff",
    "panel": "#f3f5f7",
    "text": "#1a1d21",
    "muted": "#505860",
    "link": "#0a58a8",
    "warning": "#8a3b00",
    "border": "#c4cad0",
}
DARK = {
    "background": "#14171a",
    "panel": "#1f2429",
    "text": "#e8eaed",
    "muted": "#aab2ba",
    "link": "#8cbcff",
    "warning": "#ffb077",
    "border": "#454d55",
}

_RULES = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--background); color: var(--text); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 72rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--border); }
p { max-width: 50rem; overflow-wrap: anywhere; }
a { color: var(--link); }
a:focus-visible, button:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; }
nav { background: var(--panel); border-radius: .5rem; padding: .75rem 1rem; margin: 1rem 0; }
nav ol { margin: 0; padding-left: 1.5rem; columns: 19rem auto; column-gap: 3rem; }
nav li.empty { color: var(--muted); }
.missing { color: var(--warning); }
ul.missing { padding-left: 1.25rem; max-width: 50rem; overflow-wrap: anywhere; }
figure { margin: 1.25rem 0; }
.card { background: #ffffff; border: 1px solid var(--border); border-radius: .375rem; padding: .5rem;
  width: fit-content; max-width: 100%; overflow-x: auto; margin-bottom: .25rem; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption, .files, .muted { color: var(--muted); font-size: .9rem; max-width: 50rem; overflow-wrap: anywhere; }
.files { margin: .25rem 0 1rem; font-size: .8rem; }
.scroll { overflow-x: auto; margin-top: 1rem; }
details .scroll { max-height: 40rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding-bottom: .35rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--border); text-align: right; vertical-align: top; }
thead th { background: var(--panel); min-width: 4.5rem; vertical-align: bottom; }
tbody td { white-space: nowrap; }
th:first-child, tbody th { text-align: left; font-weight: 600; }
tbody th { min-width: 8rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); }
button.copy { font: inherit; font-size: .8rem; margin-top: .75rem; padding: .15rem .6rem; cursor: pointer;
  color: var(--link); background: var(--panel); border: 1px solid var(--border); border-radius: .375rem; }
code { background: var(--panel); padding: 0 .2rem; border-radius: .2rem; }
footer { padding: 2rem 1rem; }
@media (max-width: 40rem) {
  figure img.wide { max-width: none; width: 36rem; }
  h1 { font-size: 1.35rem; } th, td { padding: .25rem .45rem; } nav ol { columns: 1; }
}
@media print { nav, button.copy { display: none; } .scroll { max-height: none; overflow: visible; } }
"""

#: Puts a copy button above every table; without it the tables can still be selected and copied.
SCRIPT = """
document.querySelectorAll(".scroll").forEach(function (box) {
  var button = document.createElement("button");
  button.type = "button"; button.className = "copy"; button.textContent = "Copy table";
  button.addEventListener("click", function () {
    var lines = Array.from(box.querySelectorAll("tr")).map(function (row) {
      return Array.from(row.cells).map(function (cell) { return cell.textContent; }).join("\\t");
    });
    function told(text) {
      button.textContent = text;
      setTimeout(function () { button.textContent = "Copy table"; }, 1500);
    }
    function bySelection() {
      var area = document.createElement("textarea");
      area.value = lines.join("\\n"); document.body.appendChild(area); area.select();
      var done = document.execCommand("copy"); area.remove(); told(done ? "Copied" : "Select and copy by hand");
    }
    if (!navigator.clipboard) { bySelection(); return; }
    navigator.clipboard.writeText(lines.join("\\n")).then(function () { told("Copied"); }, bySelection);
  });
  box.parentNode.insertBefore(button, box);
});
"""


def style_sheet() -> str:
    """The style sheet in light colours, and in dark ones where the reader prefers them."""
    return f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n" + (
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n{_RULES}"
    )


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
