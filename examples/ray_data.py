"""Label all images of a folder with Ray Data, on this machine or on a cluster.

    pip install 'nanoinfer[ray]'
    python examples/ray_data.py photos labels --model efficientnet_lite0 --workers 2
    python examples/ray_data.py s3://bucket/photos s3://bucket/labels --address auto --workers 100

The output is a folder of Parquet files, with the columns that `nanoinfer predict -o labels.parquet` writes. All
machines need nanoinfer, and reach the weights and the images.
"""

import argparse
import os


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder or address of image files")
    parser.add_argument("output", help="a folder or address for Parquet files")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--weights", help="a file that every worker can read (default: the published ones)")
    parser.add_argument("--task", choices=("predict", "embed"), default="predict")
    parser.add_argument("--address", help="a running cluster (default: one on this machine)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker, which Ray reserves as many cores for")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    if not arguments.address:  # a cluster for this machine alone answers on its loopback address alone
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

    import ray

    import nanoinfer

    ray.init(arguments.address or "local")
    # ray.data.read_images would give pixels: it drops the rotation that a file states, and a broken file ends the job.
    # Tasks that read and write ask for no core: workers may hold all cores, and such a task would wait for ever.
    images = ray.data.read_binary_files(arguments.images, include_paths=True, num_cpus=0)
    rows = images.map_batches(
        nanoinfer.Predictor,
        fn_constructor_args=(arguments.model, arguments.weights),
        fn_constructor_kwargs={"task": arguments.task, "threads": arguments.threads},
        batch_size=arguments.batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=arguments.workers),
        num_cpus=arguments.threads,
    )
    rows.write_parquet(arguments.output, ray_remote_args={"num_cpus": 0})


if __name__ == "__main__":
    main()
