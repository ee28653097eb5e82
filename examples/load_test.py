"""Requests per second and their times of a server that classifies images: serve_fastapi.py or serve_ray.py.

    python examples/load_test.py http://127.0.0.1:8000/predict photo.jpg other.jpg --connections 16

It sends the images in turns over some connections, until --requests or --seconds are over, whatever comes first. It
takes addresses of this machine only; exit code 1 says that an answer was no 200.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import statistics
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def load(url: str, images: list[bytes], connections: int, requests: int, seconds: float):
    """(times of answers in milliseconds, how many of each status, seconds in all)."""
    times, statuses, left, bodies = [], Counter(), iter(range(requests)), cycle(images)
    start = time.perf_counter()

    async def connection(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() - start < seconds and next(left, None) is not None:
            before = time.perf_counter()
            async with session.post(url, data=next(bodies)) as answer:
                await answer.read()
            times.append(1000 * (time.perf_counter() - before))
            statuses[answer.status] += 1

    limit = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=limit, timeout=aiohttp.ClientTimeout(60)) as session:
        await asyncio.gather(*(connection(session) for _ in range(connections)))
    return times, statuses, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    if not is_loopback(options.url):
        parser.error("give an address of this machine, such as http://127.0.0.1:8000/predict")
    images = [path.read_bytes() for path in options.images]
    times, statuses, seconds = asyncio.run(
        load(options.url, images, options.connections, options.requests, options.seconds)
    )
    if not times:
        parser.error("no request was answered in that time")
    p50, p99 = statistics.median(times), sorted(times)[max(0, -(-99 * len(times) // 100) - 1)]
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    print(f"{len(times) / seconds:.1f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, {answers}")
    return int(set(statuses) != {200})


if __name__ == "__main__":
    sys.exit(main())
