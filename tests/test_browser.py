"""The report in a real browser: a real short run, filters, keyboard, boxes at the right pixels, accessibility, hostile texts.

Needs playwright and a Chromium (`VISURF_CHROMIUM` names one that is not on the path). With `VISURF_PICTURES=FOLDER` the screenshots
of the documentation are written there, of the runs in `VISURF_PICTURE_RUNS` where that is set.
"""

import io
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report_runs import HOSTILE, boxes, group, present, write_run
from visurf.config import load_config
from visurf.mini.demo import RECIPE
from visurf.reporting.report import write_report
from visurf.reporting.watch import Server

CHROMIUM = os.environ.get("VISURF_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
pytestmark = [pytest.mark.browser]
GREEN, BLUE = (18, 161, 80), (47, 111, 222)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="browser tests need playwright: pip install -e '.[dev]' in a clone"
    )
    if CHROMIUM is None:
        pytest.skip("browser tests need Chromium: apt-get install chromium, or set VISURF_CHROMIUM")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser):
    """Opens a page and, at the end, refuses whatever its console complained of."""
    contexts, complaints = [], []

    def open_page(address, *, scheme="light", width=1360, height=900, **options):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: complaints.append(f"asked for {r.url}") if not allowed(r.url, address) else None)
        page.goto(address if "://" in str(address) else Path(address).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def allowed(url, address):
    """A page asks for itself, for its server, and for pictures it holds."""
    return url.startswith(("data:", "blob:")) or url.startswith(str(address) if "://" in str(address) else "file:")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two seeds of a real short run of the demo's recipe."""
    from visurf.training import train

    folder = tmp_path_factory.mktemp("real")
    for seed in (0, 1):
        changes = {
            "data": {"train": "world:shifted?count=40&seed=11", "validation": "world:shifted?count=8&seed=12"},
            "rollout": {"group_size": 4},
            "evaluation": {"every": 1, "limit": 8},
            **{"steps": 4, "prompts_per_step": 3, "seed": seed, "out": str(folder / "runs" / f"visurf-seed{seed}"), "threads": 1},
        }
        train(load_config(RECIPE, changes))
    return folder


@pytest.fixture(scope="module")
def report(real):
    return write_report([real], real / "report.html")


def pixels(place):
    return np.asarray(Image.open(io.BytesIO(place.screenshot())).convert("RGB")).astype(int)


def along(found, box, scale, colour):
    """For each edge of a box, the share of its length that has a colour within a pixel of it."""
    shares = []
    for turned, (x1, y1, x2, y2) in ((found, box), (found.transpose(1, 0, 2), [box[i] for i in (1, 0, 3, 2)])):
        for x in (x1, x2):
            edge = turned[int((y1 + 1) * scale) : int((y2 - 1) * scale), int(x * scale) - 1 : int(x * scale) + 2]
            shares.append(len(set(near(edge, colour)[0].tolist())) / edge.shape[0])
    return shares


def near(found, colour):
    return (np.abs(found - np.array(colour)).max(axis=-1) < 40).nonzero()


def test_a_real_run_is_filtered_sorted_searched_and_walked_through(opened, report):
    page = opened(report)
    listed, data = page.locator(".list button"), json.loads(page.locator("#data").text_content())
    assert listed.count() == len(data["groups"]) == 16
    assert page.locator(".run code").first.text_content()
    counts = {name: sum(name in g["flags"] for g in data["groups"]) for name in data["filters"]}
    name = max((n for n in counts if counts[n] < 16), key=counts.get)
    chip = page.locator(f"[data-filter={name}]")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    assert listed.count() == counts[name] > 0
    chip.click()
    page.locator("#search").fill(data["groups"][5]["question"])
    asked = data["groups"][5]["question"]
    assert listed.count() == sum(asked in g["question"] for g in data["groups"])
    page.locator("#search").fill("no such words")
    assert page.get_by_text("No group matches").is_visible()
    page.locator("#search").fill("")
    page.locator("#sort").select_option("worst")
    assert page.locator(".list li").nth(0).locator("button").get_attribute("aria-current") == "true"
    means = [np.mean([m["reward"] for m in g["members"] if m["source"] == "policy"]) for g in data["groups"]]
    assert page.locator(".detail h3").text_content() == data["groups"][int(np.argmin(means))]["question"]
    page.locator("#run").select_option("1")
    assert listed.count() == 8
    page.locator("h2").first.click()
    page.keyboard.press("j")
    assert page.locator(".list li").nth(1).locator("button").get_attribute("aria-current") == "true"
    page.keyboard.press("k")
    assert page.locator(".list li").nth(0).locator("button").get_attribute("aria-current") == "true"
    page.keyboard.press("2")
    assert page.locator(".member-shape:not(.dim)").count() == 1
    assert page.locator(".text.on strong").text_content() == "rollout 2"
    page.keyboard.press("Escape")
    assert page.locator(".member-shape.dim").count() == 0
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


def test_curves_are_drawn_with_a_band_over_seeds_and_follow_the_theme(opened, report):
    page = opened(report)
    page.locator("#curves").scroll_into_view_if_needed()
    page.wait_for_selector("#curves .uplot canvas")
    assert "2 seeds" in page.locator(".legend button").first.text_content()
    first = page.locator("#curves .chart", has_text="reward/total").first
    first.scroll_into_view_if_needed()
    first.locator("canvas").wait_for()
    assert len(near(pixels(first), (59, 115, 232))[0]) > 50
    light = pixels(page.locator("body"))[300, 5].sum()
    page.keyboard.press("t")
    page.keyboard.press("t")
    assert page.locator("#theme").text_content() == "Theme: dark"
    assert pixels(page.locator("body"))[300, 5].sum() < light - 300
    assert first.locator("canvas").count() == 1


def test_boxes_lie_at_the_right_pixels(opened, tmp_path):
    sample = present(1)[0]
    said = (8, 40, 24, 60)
    write_run(tmp_path, [group(sample, [boxes(said), "<answer>["])])
    page = opened(write_report([tmp_path], tmp_path / "r.html"))
    stage = page.locator(".stage svg")
    page.keyboard.press("1")
    page.wait_for_timeout(400)
    found = pixels(stage)
    scale = found.shape[1] / 64
    assert min(along(found, said, scale, BLUE)) > 0.85
    # The same frame elsewhere is not there: neither a little beside it, nor in the pixels of the reduced picture.
    assert max(along(found, [v + 1.5 for v in said], scale, BLUE)) < 0.3
    page.keyboard.press("Escape")
    page.keyboard.press("l")
    page.wait_for_timeout(400)
    found = pixels(stage)
    dashed = along(found, sample.target.boxes[0], scale, GREEN)
    assert 0.3 < min(dashed) <= max(dashed) < 0.95
    # The picture itself is the scene: its corner has the scene's colour.
    scene = np.asarray(sample.images[0].load()).astype(int)
    assert np.abs(found[int(scale * 1.5), int(scale * 62.5)] - scene[1, 62]).max() < 12


def test_hostile_texts_stay_texts(opened, tmp_path):
    write_run(tmp_path, [group(present(1)[0], HOSTILE)])
    page = opened(write_report([tmp_path], tmp_path / "r.html"))
    texts = page.locator(".text pre")
    assert texts.count() == 5
    assert texts.nth(0).text_content() == HOSTILE[0]
    assert "</textarea></script></div><img src=x" in texts.nth(1).text_content()
    assert page.evaluate("window.broken") is None
    assert page.locator("img").count() == 0
    # What a terminal or the direction of writing would obey is shown instead.
    assert "\u202e" not in texts.nth(2).text_content()
    assert "\x1b" not in texts.nth(2).text_content()
    assert texts.nth(2).locator(".control").count() == 7
    assert page.get_by_role("button", name=f"Show all {len(HOSTILE[3])} characters").is_visible()
    assert len(HOSTILE[3]) > 10_000
    page.locator(".more").first.click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_printing_shows_every_chart_light_and_whole_and_no_controls(opened, report, tmp_path):
    page = opened(report, scheme="dark")
    charts = page.locator("#curves .plot")
    drawn = "document.querySelectorAll('#curves .plot canvas').length"
    assert page.evaluate(drawn) < charts.count()
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {drawn}; }})")
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert page.evaluate("window.printed") == charts.count()
    # On the screen it is dark again.
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 24)"
    # As paper sees it: A4 between margins of a centimetre.
    page.set_viewport_size({"width": 718, "height": 1040})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    beyond = """(name) => [...document.querySelectorAll(name)].filter(
        (e) => e.getBoundingClientRect().right > e.closest('.card').getBoundingClientRect().right).length"""
    assert page.evaluate(beyond, ".card canvas, .card table") == 0
    for control in (".top", "#search", ".list", "#curves input", ".command button"):
        assert not page.locator(control).first.is_visible()
    # Which line is which run, and what the reward is compared with, is still said.
    assert page.locator(".legend button").first.is_visible()
    assert page.locator(".trust select").first.is_visible()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1360), ("dark", 1360), ("light", 400)])
def test_nothing_serious_is_inaccessible_and_nothing_overflows(opened, report, scheme, width):
    page = opened(report, scheme=scheme, width=width, bypass_csp=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.add_script_tag(content=AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)")
    serious = [
        (v["id"], v["nodes"][0]["target"], v["nodes"][0]["failureSummary"]) for v in found if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_watching_shows_new_steps_and_keeps_what_was_chosen(opened, tmp_path):
    groups = [group(s, [boxes([1, 1, 9, 9])] * 2) for s in present(4)]
    run = write_run(tmp_path / "run", groups[:2])
    with Server([run]) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page = opened(server.address)
        page.locator("#live.on").wait_for()
        assert page.locator(".list button").count() == 2
        assert page.evaluate("[...document.querySelectorAll('.stage image')][0].getBBox().width") == 64
        page.locator(".list button").nth(1).click()
        question = page.locator(".detail h3").text_content()
        write_run(run, groups)
        page.locator(".list button").nth(3).wait_for()
        assert page.locator(".detail h3").text_content() == question
        assert page.locator(".list [aria-current=true]").count() == 1
        server.shutdown()
        thread.join()


def test_screenshots_for_the_documentation(opened, report, tmp_path):
    folder = Path(os.environ.get("VISURF_PICTURES") or tmp_path / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    if chosen := os.environ.get("VISURF_PICTURE_RUNS"):
        report = write_report([Path(chosen)], tmp_path / "chosen.html")
    for scheme in ("light", "dark"):
        page = opened(report, scheme=scheme, width=1280, height=800)
        for section in ("runs", "trust", "curves", "groups"):
            page.evaluate(f"document.getElementById('{section}').scrollIntoView()")
            if section == "groups":
                # A group that shows something: rollouts that differ, and a label that is no rollout's equal.
                page.locator("#sort").select_option("spread")
                page.evaluate("document.getElementById('groups').scrollIntoView()")
            page.wait_for_timeout(800)
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            # 128 colours are enough for a page and a third of the bytes.
            shot.quantize(128, dither=Image.Dither.NONE).save(folder / f"report-{section}-{scheme}.png", optimize=True)
    assert all(p.stat().st_size > 5000 for p in folder.glob("report-*.png"))
    assert len(list(folder.glob("report-*.png"))) == 8
