"""examples/serve_ray.py: the routes, limits and bits of serve_fastapi.py, on two replicas."""

import pytest

from tests.cli.command_line import SAMPLES
from tests.serving import all_posted, expected, load_test, served

pytestmark = pytest.mark.cluster
CONTENTS = [path.read_bytes() for path in SAMPLES]


@pytest.fixture(scope="module")
def server():
    with served("serve_ray.py", "--replicas", "2", "--largest-mib", "0.01") as (_, url):
        yield url


def test_requests_that_meet_have_the_bits_of_the_command_line(server):
    assert all_posted(server, CONTENTS * 3) == expected(CONTENTS) * 3


def test_limits_and_broken_images(server):
    broken, large, good = all_posted(server, [b"none", bytes(11_000), CONTENTS[4]])
    assert (broken[0], large[0]) == (422, 413) and "not an image" in broken[1]["detail"]
    assert [good] == expected(CONTENTS[4:5])


def test_under_load(server):
    done = load_test(f"{server}/predict", "--requests", "100", "--connections", "8")
    assert done.returncode == 0 and "100 x 200" in done.stdout
