"""Classify images over HTTP with Ray Serve: the same routes as serve_fastapi.py, batches by Serve's own means.

    pip install 'nanoinfer[ray]'
    python examples/serve_ray.py --model efficientnet_lite0 --port 8000 --replicas 2

Each replica is a process with a network of --threads threads; replicas of a machine share packed weights. Serve queues
at most --most-waiting requests for them all and refuses others (503).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # one machine: the loopback address alone
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import nanoinfer


@serve.deployment
class Classifier:
    def __init__(self, arguments: dict, batch_size: int, wait_seconds: float, largest: int):
        self.predictor, self.largest = nanoinfer.Predictor(**arguments), largest
        model = self.predictor.model  # before the first request, weights are read,
        for images in range(1, batch_size + 1):  # and batches of all sizes planned and their kernels compiled
            model.program((images, model.channels, *model.preprocessing.crop))
        self.predict.set_max_batch_size(batch_size)
        self.predict.set_batch_wait_timeout_s(wait_seconds)

    @serve.batch
    async def predict(self, images: list[bytes]) -> list[dict]:
        """A result for each image: its classes, or what is wrong with it."""
        columns = await asyncio.get_running_loop().run_in_executor(None, self.predictor, images)
        return [
            {"error": error}
            if error
            else {name: columns[name][i].tolist() for name in ("labels", "indices", "probabilities")}
            for i, error in enumerate(columns["error"])
        ]

    async def __call__(self, request: Request) -> JSONResponse:
        if request.url.path == "/health":
            return JSONResponse({"status": "ok", "model": self.predictor.model.name})
        if request.url.path != "/predict" or request.method != "POST":
            return JSONResponse({"detail": "POST an image to /predict"}, 404)
        body = await request.body()
        if len(body) > self.largest:
            return JSONResponse({"detail": f"an image may have {self.largest:,} bytes"}, 413)
        result = await self.predict(body)
        return JSONResponse({"detail": result["error"]}, 422) if "error" in result else JSONResponse(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--weights")
    parser.add_argument("--topk", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--wait-ms", type=float, default=5)
    parser.add_argument("--most-waiting", type=int, default=64)
    parser.add_argument("--largest-mib", type=float, default=10)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    ray.init("local", include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    arguments = {"model": options.model, "weights": options.weights, "topk": options.topk, "threads": options.threads}
    deployment = Classifier.options(
        num_replicas=options.replicas,
        max_ongoing_requests=2 * options.batch_size,  # a batch waits while another runs
        max_queued_requests=options.most_waiting,
        ray_actor_options={"num_cpus": 0},  # the cores are the network's; Serve's own processes need few
    )
    largest = int(options.largest_mib * 2**20)
    serve.run(deployment.bind(arguments, options.batch_size, options.wait_ms / 1000, largest))
    print("ready", flush=True)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
