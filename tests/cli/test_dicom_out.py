"""predict on DICOM, with a network that is made up: which files it leaves, what they say, and what is told."""

import json

import dicom_out_series as made
import highdicom
import numpy as np
import pydicom
import pytest
from numpy.testing import assert_array_equal

from jaxseg import config as configs
from jaxseg.cli import build, described, inference, predict, workdir
from jaxseg.data.datasets import inputs
from jaxseg.predict import Prediction
from jaxseg.typing import Case, UserError
from jaxseg.viz.colors import class_color

KNOWN = build.Facts(("CT",), ("background", "liver", "tumour"), (0, 1, 2), (), None, None)
SECRETS = ("Muster", "Grete", "4711", "19331224", "ACC99", "Doktor")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Returns `(**options of config.predict) -> None`: --mode predict of one series by a network that knows it all."""
    volume = made.write(tmp_path / "scan")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"dataset": {"channels": ["CT"]}, "command": "secret"}))
    monkeypatch.setattr(inputs, "list_inputs", lambda *args, **options: (Case("scan", (volume.path,)),))
    monkeypatch.setattr(inputs, "read_case", lambda case: volume)

    def run(*, terms="", average=(), header=True, **options):
        config = configs.base_config()
        config.predict.update(options)
        config.data.terms = terms
        probabilities = np.eye(3, dtype=np.float32)[made.labels()]

        def find(given, *, keep_probabilities=False):
            return Prediction(made.labels(), probabilities if keep_probabilities else None)

        trained = inference.Trained(config, {}, KNOWN, (), 250, find)
        monkeypatch.setattr(inference, "load", lambda *args, **options: trained)
        arguments = workdir.Arguments(
            config, tmp_path / "run", ("scan",), str(tmp_path / "out"), None, False, average=average
        )
        predict.predict(arguments)
        return tmp_path / "out"

    return run


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_series_gives_nifti_and_a_segmentation(command, capfd):
    out = command(terms="tumour = SCT:49755003:Morphologically Altered Structure > SCT:4147007:Mass")
    assert files(out) == ["scan.dcm", "scan.nii.gz"]
    found = highdicom.seg.segread(out / "scan.dcm")
    liver, tumour = (found.get_segment_description(number) for number in (1, 2))
    assert (liver.segment_label, liver.segmented_property_type.meaning) == ("liver", "Tissue")
    assert (tumour.segment_label, tumour.segmented_property_type.meaning) == ("tumour", "Mass")
    color = highdicom.color.CIELabColor.from_dicom_value(tumour.RecommendedDisplayCIELabValue)
    np.testing.assert_allclose(color.to_rgb(clip=True), class_color(2), atol=1)  # as in the overlays
    assert pydicom.dcmread(out / "scan.dcm").PatientID == made.PATIENT["PatientID"]
    printed = "".join(capfd.readouterr())
    assert "1 masks in" in printed and not any(secret in printed for secret in SECRETS)


def test_contours_and_probabilities_as_asked_for(command):
    out = command(format="dicom_seg|rtstruct", probabilities=True)
    assert files(out) == ["scan.dcm", "scan_probabilities.dcm", "scan_rtstruct.dcm"]
    names = [region.ROIName for region in pydicom.dcmread(out / "scan_rtstruct.dcm").StructureSetROISequence]
    assert names == ["liver", "tumour"]
    with pytest.raises(UserError, match="exists already"):
        command(format="rtstruct")


def test_wrong_terms_are_told_before_anything_is_predicted(command):
    with pytest.raises(UserError, match="a coded term to lever, but the classes are liver, tumour"):
        command(terms="lever = SCT:10200004:Liver")


def test_the_digest_names_the_run_and_no_path(tmp_path):
    for name, text in (("a", '{"step": 1}'), ("b", '{"step": 2}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)

    def digest(name, step, average=()):
        return described.digest(
            workdir.Arguments(configs.base_config(), tmp_path / name, (), None, None, False, average=average), step
        )

    other = str(tmp_path / "b")
    found = [digest("a", 1), digest("a", 2), digest("b", 1), digest("a", 1, (other,))]
    assert len(set(found)) == 4 and found[0] == digest("a", 1)
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in found)


def test_the_grid_of_the_mask_is_that_of_the_scan(command):
    out = command(format="dicom_seg")
    found = highdicom.seg.segread(out / "scan.dcm")
    uids = [pydicom.dcmread(out.parent / "scan" / f"{number}.dcm").SOPInstanceUID for number in (3, 2, 1)]
    assert_array_equal(found.get_pixels_by_source_instance(uids, combine_segments=True), made.labels())
