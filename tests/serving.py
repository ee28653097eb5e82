"""A server of examples/ in a process of its own."""

import asyncio
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import aiohttp

from tests.cli.command_line import ROOT


@contextmanager
def served(script, *options, seconds=120):
    """(process, address) of a server that is ready."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, f"examples/{script}", "--model", "digits", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + seconds
        while not asyncio.run(healthy(url)):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < end, "the server is not ready"
            time.sleep(0.1)
        yield process, url
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


async def healthy(url):
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as answer:
            return answer.status == 200 and (await answer.json())["model"] == "digits"
    except aiohttp.ClientError:
        return False


async def post(session, url, body):
    """(status, what is answered)."""
    async with session.post(f"{url}/predict", data=body) as answer:
        return answer.status, await answer.json()


def all_posted(url, bodies):
    """The answers to requests that are sent at once."""

    async def run():
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(post(session, url, body) for body in bodies))

    return asyncio.run(run())


def expected(contents):
    """What a server answers, from the same images on the command line's way."""
    import nanoinfer

    columns = nanoinfer.Predictor("digits")(contents)
    names = ("labels", "indices", "probabilities")
    return [(200, {name: columns[name][i].tolist() for name in names}) for i in range(len(contents))]


def load_test(url, *options):
    command = [sys.executable, "examples/load_test.py", url, "nanoinfer/data/digits/digit_7.png", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
