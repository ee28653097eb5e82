"""examples/serve_fastapi.py: equal bits in any batch, limits, clients that go away, and an end that loses nothing."""

import asyncio
import re
import signal

import aiohttp
import pytest

from tests.cli.command_line import SAMPLES
from tests.serving import all_posted, expected, load_test, post, served

CONTENTS = [path.read_bytes() for path in SAMPLES]


@pytest.fixture(scope="module")
def server():
    """One that waits long for others, so that requests meet."""
    with served("serve_fastapi.py", "--wait-ms", "150", "--most-waiting", "40", "--largest-mib", "0.01") as (_, url):
        yield url


def test_requests_that_meet_have_the_bits_of_the_command_line(server):
    assert all_posted(server, CONTENTS * 3) == expected(CONTENTS) * 3
    assert all_posted(server, CONTENTS[:1]) == expected(CONTENTS[:1])


def test_what_is_no_image_fails_alone(server):
    broken, empty, good = all_posted(server, [b"none", b"", CONTENTS[4]])
    assert broken[0] == empty[0] == 422 and "not an image" in broken[1]["detail"]
    assert [good] == expected(CONTENTS[4:5])


def test_large_bodies_are_refused(server):
    async def parts():
        for _ in range(20):
            yield bytes(1024)

    [large] = all_posted(server, [bytes(11_000)])
    assert large == (413, {"detail": "an image may have 10,485 bytes"})
    [streamed] = all_posted(server, [parts()])  # without a length in its header
    assert streamed[0] == 413


def test_too_many_are_refused_and_the_others_right(server):
    answers = all_posted(server, CONTENTS[:1] * 200)
    [right] = expected(CONTENTS[:1])
    refused = [answer for answer in answers if answer != right]
    assert len(answers) - len(refused) >= 40 and refused
    assert {status for status, _ in refused} == {503}


def test_a_client_that_goes_away_takes_its_image_with_it(server):
    async def run():
        async with aiohttp.ClientSession() as session:
            leaving = asyncio.create_task(post(session, server, CONTENTS[0]))
            staying = asyncio.create_task(post(session, server, CONTENTS[1]))
            await asyncio.sleep(0.05)
            leaving.cancel()
            return await staying

    assert [asyncio.run(run())] == expected(CONTENTS[1:2])


def test_requests_that_were_accepted_are_answered_at_the_end():
    with served("serve_fastapi.py", "--wait-ms", "500") as (process, url):

        async def run():
            async with aiohttp.ClientSession() as session:
                waiting = asyncio.create_task(post(session, url, CONTENTS[2]))
                await asyncio.sleep(0.2)
                process.send_signal(signal.SIGTERM)
                return await waiting

        assert [asyncio.run(run())] == expected(CONTENTS[2:3])
        assert process.wait(30) in (0, -signal.SIGTERM)


def test_load_test_prints_rate_and_percentiles(server):
    done = load_test(f"{server}/predict", "--requests", "30", "--connections", "10")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[\d.]+ requests/s, p50 [\d.]+ ms, p99 [\d.]+ ms, 30 x 200\n", done.stdout)


@pytest.mark.parametrize("url", ["http://192.0.2.1/predict", "http://example.com/predict"])
def test_load_test_stays_on_this_machine(url):
    done = load_test(url)
    assert done.returncode == 2 and "give an address of this machine" in done.stderr
