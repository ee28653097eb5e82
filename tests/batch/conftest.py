"""Archives of the sample digits and of mixed images."""

import io
import tarfile

import pytest

from tests.batch.mixed import write_images
from tests.cli.command_line import SAMPLES


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """A folder of 200 images of all kinds, 8 of them broken."""
    folder = tmp_path_factory.mktemp("mixed")
    write_images(folder, 200, broken_every=25)
    return folder


@pytest.fixture(scope="session")
def contents():
    """{name: bytes} of the ten sample digits."""
    return {path.name: path.read_bytes() for path in SAMPLES}


def write_tar(path, members, mode="w"):
    """A tar file of {name: bytes}."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
