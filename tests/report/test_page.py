"""The page: self-contained, readable, complete, and honest about what is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from probediff.commands.report import report
from probediff.report.curves import draw, short_number
from probediff.report.drawings import draw_picture, read_picture
from probediff.report.panels import Line, Panel
from probediff.report.parts import escaped
from tests.report.synthetic import EVERY_PROBE, write_probes, write_run


class Page(HTMLParser):
    """What a browser would look for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for seed in (0, 1, 2):
        write_probes(write_run(folder / "runs" / f"seed{seed}", seed))
    assert report([str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "index.html").read_text())


def test_nothing_is_loaded_from_anywhere(out: Path, page: Page) -> None:
    sources = [attrs[key] for _, attrs in page.tags for key in ("src", "href", "data", "action") if attrs.get(key)]
    assert sources and all(source.startswith(("data:image/", "#")) for source in sources)
    assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    text = re.sub(r"data:image/\w+;base64,[A-Za-z0-9+/=]+", "", (out / "index.html").read_text())
    assert "http://" not in text and "https://" not in text and "@import" not in text and "url(" not in text


def test_every_anchor_has_its_place_and_every_image_its_words(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for attrs in page.all("a")}
    assert targets <= set(ids) and len(targets) == len(page.all("section")) == 24
    labelled = [attrs["aria-labelledby"] for attrs in page.all("section")]
    assert set(labelled) <= set(ids)
    images = page.all("img")
    assert len(images) >= 15
    assert all(len(attrs["alt"] or "") > 20 for attrs in images)


def test_headings_are_one_title_and_sections(page: Page) -> None:
    assert [tag for tag, _ in page.tags if re.fullmatch(r"h\d", tag)] == ["h1"] + ["h2"] * 24
    assert page.all("html") == [{"lang": "en"}]
    assert not page.all("meta")[0].get("http-equiv") and "refresh" not in str(page.all("meta"))


def test_everything_of_a_complete_run_is_there(out: Path, page: Page) -> None:
    assert "not recorded" not in page.words
    names = {path.stem for path in (out / "figures").glob("*.png")}
    assert names == {path.stem for path in (out / "figures").glob("*.pdf")}
    for expected in (
        "f1_pictures_1",
        "f2_triangle",
        "f3_heat_map",
        "f4_final_samples",
        "f4_own_samples",
        "f5_assignment",
        "f6_similarity",
        "f6_rows_1",
        "f7_hub_variance",
        "f8_hubs_1",
        "t1_correlation_over_training",
        "network_images_1",
        "training",
        "reproducibility",
        *(f"{name}_over_training" for name in ("latent_normality", "noise_image_map", "sample_quality")),
    ):
        assert expected in names
    tables = {path.name for path in (out / "tables").iterdir()}
    assert {f"t2_assignment.{suffix}" for suffix in ("md", "tex", "csv")} <= tables
    assert {f"{name}_1.csv" for name in ("verdicts", "verdicts_exact", "verdicts_numbers")} <= tables
    assert page.all("section")[0]["id"] == "verdicts"
    assert not list(out.rglob("*.partial"))
    assert (out / "figures" / "f2_triangle.pdf").read_bytes().startswith(b"%PDF")


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough(out: Path, scheme: int) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    text = (out / "index.html").read_text()
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", re.findall(r":root \{([^}]*)\}", text)[scheme]))
    assert (luminance(colours["background"]) > 0.5) == (scheme == 0)
    used = set(re.findall(r"[^-]color: var\(--(\w+)\)", text))
    assert used == {"text", "muted", "link", "warning"}
    for name in used:
        for behind in ("background", "panel"):
            assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind)


def test_old_records_without_some_probes_say_so(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "old", probes=("training", "inversion_angles"), steps=(0, 10), files=False, finished=False
    )
    assert report([str(run), "--out", str(tmp_path / "out")]) == 0
    words = Page((tmp_path / "out/index.html").read_text()).words
    assert "No run has records of assignment_accuracy." in words
    assert "old has no picture of latents." in words
    assert "Similarity to the final samples is measured when a run ends." in words
    assert "training or stopped" in words
    assert {p.stem for p in (tmp_path / "out/figures").glob("*.png")} == {"training", "f2_triangle", "f4_own_samples"}


def test_a_killed_run_with_damaged_files_still_gives_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "killed", probes=("training", "trajectory_heatmap"), finished=False)
    with (run / "records.jsonl").open("a") as file:
        file.write('{"step": 2000, "pro')
    for path in (*run.glob("pictures/step=00001000.*"), *run.glob("samples/step=00001000.*")):
        path.write_bytes(path.read_bytes()[:50])
    assert report([str(run), "--out", str(tmp_path / "out")]) == 0
    words = Page((tmp_path / "out/index.html").read_text()).words
    assert "its last line is incomplete and does not count" in words
    assert "killed: no stored heat map." in words


def test_names_are_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "<b>&run", files=False, probes=("training",))
    assert report([str(run), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/index.html").read_text()
    assert "<b>" not in text and "&lt;b&gt;&amp;run" in text
    assert escaped("a `b<` c") == "a <code>b&lt;</code> c"
    assert escaped("one ` only") == "one ` only"


@pytest.mark.slow
def test_three_runs_of_forty_checkpoints_stay_below_ten_megabytes(tmp_path: Path) -> None:
    steps = tuple(round(1000 * (k / 39) ** 2) for k in range(40))
    for seed in (0, 1, 2):
        run = write_run(tmp_path / "runs" / f"seed{seed}", seed, tuple(dict.fromkeys(steps)))
        # Noise is the largest PNG there is; these are the sizes that 16 images of 256 x 256 pixels give.
        pixels = torch.randint(0, 255, (774, 4130, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        from PIL import Image

        Image.fromarray(pixels.numpy()).save(run / "pictures" / "step=00001000.inversion_angles.latents.png")
    assert report([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--group_by", "seed_everything"]) == 0
    assert (tmp_path / "out/index.html").stat().st_size < 10_000_000


def test_step_zero_is_on_the_logarithmic_axis() -> None:
    line = Line("run", "single", {0: 1.0, 10: 0.5, 100_000: 0.1}, {}, 0)
    figure = draw([Panel("loss", "loss", (line,))])
    (axis,) = figure.axes
    assert axis.get_xscale() == "symlog"
    assert axis.get_xlim()[0] == 0
    assert [short_number(tick) for tick in axis.get_xticks()][:3] == ["0", "10", "100"]
    place = axis.transData.transform([(0, 0), (10, 0), (100, 0), (1000, 0)])[:, 0]
    assert place[0] < place[1] and place[2] - place[1] == pytest.approx(place[3] - place[2])
    assert short_number(1_500_000) == "1.5M"


def test_pictures_keep_their_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (66, 200, 3), dtype=np.uint8)
    figure = draw_picture(pixels, ["a", "b", "c"])
    figure.savefig(tmp_path / "picture.png", dpi=100)
    drawn = read_picture(tmp_path / "picture.png")
    assert drawn is not None and drawn.shape == (66, 320, 3)
    np.testing.assert_array_equal(drawn[:, 120:], pixels)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert read_picture(tmp_path / "broken.png") is None


def test_every_probe_of_the_fixture_is_in_the_page(page: Page) -> None:
    assert all(name in page.words for name in EVERY_PROBE)
