"""The standard's tables of modules, as highdicom ships them: what is mandatory is there, in both kinds of objects."""

import dicom_out_series as made
import numpy as np
import pydicom
import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map

from jaxseg.data.dicom.described import Description, Label
from jaxseg.data.writers import dicom_seg, rtstruct
from jaxseg.terms import UNSPECIFIED

DESCRIPTION = Description(
    tuple(Label(number, f"class {number}", (10, 200, 30), UNSPECIFIED) for number in (1, 2)), "1.2.3", "abc"
)


def missing(dataset):
    """The attributes of types 1 and 2 of mandatory modules that are not there, and those of type 1 without value.

    What stands in functional groups is left out: the table cannot tell which of the groups there must be.
    """
    found = []
    for module in get_iod_module_map()[get_sop_class_iod_map()[dataset.SOPClassUID]]:
        if module["usage"] != "M":
            continue
        for rule in get_module_attribute_map()[module["key"]]:
            items = [dataset]
            for keyword in rule["path"]:
                items = [inner for item in items if keyword in item for inner in item[keyword].value]
            for item in items if rule["type"] in ("1", "2") else ():
                name = rule["keyword"]
                if "FunctionalGroups" in ".".join(rule["path"]):
                    continue
                if name not in item or (rule["type"] == "1" and item[name].is_empty):
                    found.append(".".join([*rule["path"], name]))
    return found


@pytest.mark.parametrize("writer", [dicom_seg, rtstruct])
@pytest.mark.parametrize("several_frames", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_what_is_mandatory_is_there(tmp_path, writer, several_frames, empty):
    volume = made.write(tmp_path / "series", several_frames=several_frames, PatientSex=None, StudyID=None)
    labels = np.zeros((3, 5, 7), np.int16) if empty else made.labels()
    dataset = pydicom.dcmread(writer.write(tmp_path / "a.dcm", labels, volume, description=DESCRIPTION))
    assert missing(dataset) == []
    del dataset.StudyInstanceUID  # the tables do look
    assert "StudyInstanceUID" in missing(dataset)
