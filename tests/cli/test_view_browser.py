"""The viewer's page in a real browser: drawn, changed by keys, no word in the console, served and as a folder."""

import io
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from scenes import objects, square

from jaxseg.cli import serve, view, view_cases
from jaxseg.data.volume import identity_affine
from jaxseg.typing import Volume
from jaxseg.viz import viewer
from jaxseg.viz.planes import focus_slices

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# WebGL 2 in software: what runs here needs no graphics card.
OPTIONS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
SIZE = {"width": 760, "height": 420}
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH"),
]


def cube():
    """A bright box in noise, its truth, and a prediction that is shifted along x."""
    rng = np.random.default_rng(0)
    true = np.zeros((20, 24, 28), np.int16)
    true[6:14, 8:16, 8:20] = 1
    true[8:12, 10:14, 12:16] = 2
    image = (60 * (true > 0) + rng.normal(60, 8, true.shape)).astype(np.float32)[..., None]
    pred = np.roll(true, 3, axis=2)
    heat = np.abs(pred - true).clip(0, 1).astype(np.float32)
    affine = np.array([[0, 0, -1.0, 27], [0, 1.5, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])  # x runs to the left
    return viewer.Shown(Volume(image, (2.0, 1.5, 1.0), affine), true, pred, heat)


def photo():
    shape = (40, 60)
    image = np.full((*shape, 3), 90, np.uint8)
    found = objects(square(8, 10, 12, 20, shape), labels=[1], scores=[0.875])
    pred = viewer.object_classes(found, shape)
    return viewer.Shown(Volume(image, (1.0, 1.0), identity_affine(2)), pred, pred, None, found, found)


@pytest.fixture(scope="module")
def source():
    entries = [
        view_cases.Entry(viewer.Listed("<b>first</b>", 0.25, {"shell": {"dice": 0.25}}), cube),
        view_cases.Entry(viewer.Listed("second", 0.75), photo),
    ]
    classes = ("background", "shell", "core")
    return view_cases.Source(entries, "run", classes, ("T1",), "mean Dice", {"dice": "Dice"})


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield running
        running.close()


class Page:
    """A page that remembers what went wrong in it."""

    def __init__(self, browser, address):
        self.said: list[str] = []
        self.page = browser.new_page(viewport=SIZE)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("requestfailed", lambda request: self.said.append(f"{request.url} {request.failure}"))
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.settle()
        self.first = self.picture()

    def settle(self):
        """Waits until the case is open and two frames have been drawn."""
        self.page.locator("#message:empty").wait_for(state="attached", timeout=60_000)
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()
        return self

    def picture(self):
        """The pixels of the image's area, `(H, W, 3)`."""
        data = self.page.locator("#stage").screenshot(timeout=60_000)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)[3:-3, 3:-3]  # without its frame

    def text(self, place):
        return self.page.text_content(place)


@pytest.fixture(scope="module")
def served(source, browser, tmp_path_factory):
    server, address = serve.start(view._table(source, tmp_path_factory.mktemp("layers")))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield Page(browser, address), address
    server.shutdown()
    server.server_close()


def differ(first, second):
    return int((np.abs(first - second).max(axis=-1) > 8).sum())


def test_a_volume_is_drawn_and_keys_change_what_is_seen(served):
    page, address = served
    assert page.text("#case") == "<b>first</b>" and page.page.locator("#list b").count() == 0
    assert page.text("#place") == "1 of 2" and "worst first" in page.text("#note")
    assert "Dice 0.250" in page.text("#classes")
    first = page.first
    assert (first.max(axis=-1) > 40).mean() > 0.1  # the volume itself, on black
    colored = first.max(axis=-1) - first.min(axis=-1) > 40
    assert colored.sum() > 500
    without = page.press("t", "p").picture()
    assert differ(first, without) > 500
    assert (without.max(axis=-1) - without.min(axis=-1) > 40).sum() < colored.sum() / 4  # what is left: the crosshair
    assert differ(page.press("t", "p").picture(), first) == 0
    assert differ(page.press("1", "2").picture(), without) == 0  # no class is the same as no layer
    assert differ(page.press("0").picture(), first) == 0
    assert differ(page.press("u").picture(), first) > 100
    assert differ(page.press("u", "d").picture(), first) > 100
    page.press("d")
    before = page.text("#location")
    case = cube()
    place = focus_slices(case.true.shape, true=case.true, pred=case.pred, focus="error")
    named = ["none", "shell", "core"]
    assert "mm (R, A, S)" in before and f"uncertainty {case.uncertainty[place]:.3g}" in before.replace("1.00", "1")
    assert f"truth {named[case.true[place]]}" in before and f"prediction {named[case.pred[place]]}" in before
    page.press("ArrowUp")
    assert page.text("#location") != before
    page.press("r")
    assert page.text("#location") == before and differ(page.picture(), first) == 0
    views = [first]
    for _ in range(5):  # axial, coronal, sagittal, 3D, all
        views.append(page.press("v").picture())
        assert all(differ(views[-1], other) > 500 for other in views[:-1])
    page.press("v", "h")
    assert page.page.locator("#help").is_visible() and "next, previous case" in page.text("#keys")
    page.page.keyboard.press("Escape")
    assert not page.page.locator("#help").is_visible()
    assert not page.said
    assert all(url.startswith((address, "data:", "blob:")) for url in page.requests)


def test_the_next_case_is_a_flat_image_with_boxes(served):
    page, _ = served
    page.press("j")
    assert page.text("#case") == "second" and "core" in page.text("#classes")
    assert "prediction: 1" in page.text("#objects")
    first = page.press("t", "p", "t", "p").picture()  # of objects the outlines come back, not the filled classes
    plain = page.press("b", "t", "p").picture()
    assert differ(first, plain) > 200
    assert (plain.max(axis=-1) - plain.min(axis=-1)).max() < 8  # grey, and nothing over it
    assert (np.abs(plain - 90).max(axis=-1) < 3).mean() > 0.3  # whose value comes back exactly
    page.press("b", "t", "p", "+")
    assert differ(page.picture(), first) > 200
    page.press("r")
    assert differ(page.picture(), first) == 0
    page.press("k")
    assert page.text("#case") == "<b>first</b>"
    assert not page.said


def test_the_same_page_opens_as_a_folder_without_a_server(source, browser, served, tmp_path):
    made = [lambda case=case: source.make(case) for case in source.cases]
    viewer.write_folder(tmp_path / "viewer", view._listed(source, embedded=True), made)
    page = Page(browser, (tmp_path / "viewer" / "index.html").as_uri())
    assert differ(page.first, served[0].first) == 0
    page.press("j")
    assert page.text("#case") == "second"
    assert not page.said and all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
    page.page.close()


def test_a_case_that_cannot_be_read_is_told_in_its_place(browser, source, tmp_path):
    from jaxseg.typing import UserError

    def broken():
        raise UserError("third.nii.gz is cut short; copy it again.")

    entries = [view_cases.Entry(viewer.Listed("third", 0.1), broken), source.cases[1]]
    server, address = serve.start(view._table(source._replace(cases=entries), tmp_path))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    page = browser.new_page(viewport=SIZE)
    try:
        page.goto(address)
        page.locator("#message.warn").wait_for(timeout=30_000)
        assert page.text_content("#message") == "third.nii.gz is cut short; copy it again."
        page.keyboard.press("j")
        page.locator("#message:empty").wait_for(state="attached", timeout=30_000)
        assert page.text_content("#case") == "second"
    finally:
        page.close()
        server.shutdown()
        server.server_close()
