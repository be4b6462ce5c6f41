"""Folders of made images: what their record says of the numbers in them."""

import numpy as np

from jaxseg.data import made_files, value_range


def test_the_record_says_how_files_become_normalised_again():
    encoded = np.array([-1.0, 0.0, 1.0])
    scale, offset = value_range.scales(("zscore", "rgb"), 2, clip=3.0)
    normalised = encoded[:, None] * scale + offset
    for suffix, files in ((".png", (encoded + 1) / 2 * 255), (".tif", encoded)):
        told = made_files.scaling({"images": suffix}, scale, offset)
        back = np.stack([(files - start) / step for start, step in told], axis=-1)
        np.testing.assert_allclose(back, normalised, atol=1e-6)
