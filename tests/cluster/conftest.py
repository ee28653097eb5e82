"""Images for workers of Ray and Spark, and what the command line makes of them on its own."""

import pytest

from nanoinfer.cli import main
from tests.batch.mixed import write_images
from tests.cluster.results import RESULTS


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 60 images of all kinds, 3 of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, 60, broken_every=20)
    return folder


@pytest.fixture(scope="session")
def expected(photos, tmp_path_factory):
    """{task: the Parquet file that the command line writes without a cluster}."""
    files = {task: tmp_path_factory.mktemp("expected") / f"{task}.parquet" for task in RESULTS}
    for task, file in files.items():
        assert main([task, str(photos), "-m", "digits", "-o", str(file)]) == 1  # some images are broken
    return files
