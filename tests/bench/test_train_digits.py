"""The images that the embedded network is trained on."""

import numpy as np
import pytest


def test_scans_become_images_and_arrays():
    pytest.importorskip("sklearn")
    from bench.train_digits import image_array, scan_image

    scan = np.zeros((8, 8), np.uint8)
    scan[:2] = np.arange(16).reshape(2, 8)
    scan[2] = 16
    image = scan_image(scan)
    assert image.mode == "L" and image.size == (8, 8)
    np.testing.assert_array_equal(image, [[round(int(value) * 255 / 16) for value in row] for row in scan])
    assert image_array(image).shape == (3, 96, 96) and image_array(image).dtype == np.float32
    for value, expected in ((0, -1), (16, 1)):
        assert (image_array(scan_image(np.full((8, 8), value, np.uint8))) == expected).all()
