"""The picture of docs/viewer.md: the viewer on the MNI template, in Chromium without a screen.

    python -m docs.examples.viewer_picture docs/images/viewer.png

Two thresholds on the template with 5 % of noise stand for a prediction, and how near a voxel is to one of them for its
uncertainty: no network is trained, and no score is claimed.
"""

import io
import pathlib
import shutil
import sys
import tempfile

import numpy as np

from jaxseg.data import readers
from jaxseg.data.datasets import mni
from jaxseg.metrics import dice
from jaxseg.viz import viewer

CLASSES = ("background", "grey matter", "white matter")
CUTS = (95.0, 172.0)  # intensities between background, grey and white
OPTIONS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")


def shown() -> viewer.Shown:
    """Returns the template, its tissues, and what two thresholds make of it."""
    folder = pathlib.Path(mni.package_folder())
    image, grey, white = (readers.read(mni.file_of(str(folder), kind)) for kind in ("t1", "gm", "wm"))
    grey, white = grey.data[..., 0].astype(np.int16), white.data[..., 0].astype(np.int16)
    true = np.argmax(np.stack([255 - grey - white, grey, white]), axis=0).astype(np.int16)
    noisy = image.data[..., 0] + np.random.default_rng(0).normal(0, 255 * 0.05, true.shape)
    inside = image.data[..., 0] > 0
    pred = (np.digitize(noisy, CUTS) * inside).astype(np.int16)
    near = np.min([np.abs(noisy - cut) for cut in CUTS], axis=0)
    heat = (np.exp(-((near / 8) ** 2)) * inside).astype(np.float32)
    return viewer.Shown(image, true, pred, heat)


def main(target: str) -> None:
    """Writes the picture."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    case = shown()
    scores = dict(zip(CLASSES[1:], np.asarray(dice(case.pred, case.true, num_classes=3)).tolist()))
    listed = viewer.Listed("mni152", float(np.mean(list(scores.values()))), {k: {"dice": v} for k, v in scores.items()})
    page = viewer.manifest(
        [listed], title="MNI152", classes=CLASSES, ranking="mean Dice", metrics={"dice": "Dice"}, embedded=True
    )
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        made = [lambda: viewer.case_files(case, channels=("T1",), num_classes=3)]
        viewer.write_folder(pathlib.Path(folder) / "viewer", page, made)
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=list(OPTIONS))
        tab = browser.new_page(viewport={"width": 1180, "height": 700})
        tab.set_default_timeout(600_000)  # without a graphics card a 3D view takes its time
        tab.goto((pathlib.Path(folder) / "viewer" / "index.html").as_uri())
        tab.locator("#message:empty").wait_for(state="attached")
        tab.get_by_role("button", name="all", exact=True).click()
        picture = Image.open(io.BytesIO(tab.screenshot()))
        browser.close()
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
