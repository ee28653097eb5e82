"""Classify images over HTTP with FastAPI: requests that come in together run as one batch.

    pip install 'nanoinfer[serve]'
    python examples/serve_fastapi.py --model efficientnet_lite0 --port 8000
    curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
    curl http://127.0.0.1:8000/health

An image waits at most --wait-ms for others. A request is refused while --most-waiting others wait (503), if it is
larger than --largest-mib (413), and if it is no image (422). A client that goes away takes its image with it. On
SIGTERM, requests that were accepted are still answered.
"""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import uvicorn
from fastapi import FastAPI, HTTPException, Request

import nanoinfer


class Batcher:
    """Single images to batches. The network runs in a thread of its own, and the event loop goes on meanwhile."""

    def __init__(self, predictor: nanoinfer.Predictor, batch_size: int, wait_seconds: float, most_waiting: int):
        self.predictor, self.batch_size, self.wait_seconds = predictor, batch_size, wait_seconds
        self.waiting: asyncio.Queue[tuple[bytes, asyncio.Future]] = asyncio.Queue(most_waiting)
        self.thread = ThreadPoolExecutor(1)

    def submit(self, image: bytes) -> asyncio.Future:
        """A future of the result. Raises asyncio.QueueFull if too many wait."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((image, future))
        return future

    async def run(self) -> None:
        """Compute batches for ever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.waiting.get()]
            end = loop.time() + self.wait_seconds
            with suppress(asyncio.TimeoutError):
                while len(batch) < self.batch_size:
                    batch.append(await asyncio.wait_for(self.waiting.get(), end - loop.time()))
            batch = [(image, future) for image, future in batch if not future.cancelled()]
            try:
                results = await loop.run_in_executor(self.thread, self.compute, [image for image, _ in batch])
            except Exception as error:  # the next batch may be better
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if not future.cancelled():
                    future.set_exception(result) if isinstance(result, Exception) else future.set_result(result)

    def compute(self, images: list[bytes]) -> list[dict]:
        """A result for each image: its classes, or what is wrong with it."""
        columns = self.predictor(images) if images else {"error": []}
        return [
            {"error": error}
            if error
            else {name: columns[name][i].tolist() for name in ("labels", "indices", "probabilities")}
            for i, error in enumerate(columns["error"])
        ]


async def read_body(request: Request, largest: int) -> bytes:
    """The body, as long as it is not too large: a header may lie, or be missing."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > largest:
            raise HTTPException(413, f"an image may have {largest:,} bytes")
    return bytes(body)


async def unless_gone(request: Request, future: asyncio.Future) -> dict:
    """The result, unless the client goes away before; then the image is not computed."""
    gone = asyncio.ensure_future(request.receive())  # the body has been read: what comes is the end of the connection
    try:
        await asyncio.wait({gone, future}, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise HTTPException(499, "the client is gone")
        return future.result()
    finally:
        gone.cancel()
        future.cancel()


def create_app(batcher: Batcher, largest: int) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI):
        running = asyncio.create_task(batcher.run())
        yield
        running.cancel()

    app = FastAPI(title="nanoinfer", lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "model": batcher.predictor.model.name, "waiting": batcher.waiting.qsize()}

    @app.post("/predict")
    async def predict(request: Request) -> dict:
        image = await read_body(request, largest)
        try:
            future = batcher.submit(image)
        except asyncio.QueueFull:
            raise HTTPException(503, "too many images wait; come again", {"Retry-After": "1"}) from None
        result = await unless_gone(request, future)
        if "error" in result:
            raise HTTPException(422, result["error"])
        return result

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--weights")
    parser.add_argument("--topk", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--wait-ms", type=float, default=2)
    parser.add_argument("--most-waiting", type=int, default=64)
    parser.add_argument("--largest-mib", type=float, default=10)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    predictor = nanoinfer.Predictor(
        options.model, options.weights, topk=options.topk, threads=options.threads, batch_size=options.batch_size
    )
    model = predictor.model  # before the first request, weights are read,
    for images in range(1, options.batch_size + 1):  # and batches of all sizes planned and their kernels compiled
        model.program((images, model.channels, *model.preprocessing.crop))
    batcher = Batcher(predictor, options.batch_size, options.wait_ms / 1000, options.most_waiting)
    uvicorn.run(create_app(batcher, int(options.largest_mib * 2**20)), host=options.host, port=options.port)


if __name__ == "__main__":
    main()
