"""DICOM: series of slices, how they are found and ordered, and the objects that hold labels."""
