"""Label all images of a folder with Spark, on this machine or on a cluster.

    pip install 'nanoinfer[spark]'          # and Java 17
    python examples/spark.py photos labels --model efficientnet_lite0 --workers 2
    spark-submit --master yarn examples/spark.py hdfs:///photos hdfs:///labels

The output is a folder of Parquet files, with the columns that `nanoinfer predict -o labels.parquet` writes. All
machines need nanoinfer, and reach the weights and the images.
"""

import argparse
import os
import sys

from pyspark.sql import SparkSession

import nanoinfer

RESULTS = {
    "predict": "labels array<string>, indices array<int>, probabilities array<double>",
    "embed": "embedding array<float>",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of image files, or folders of them")
    parser.add_argument("output", help="a folder for Parquet files, which is replaced")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--weights", help="a file that every worker can read (default: the published ones)")
    parser.add_argument("--task", choices=("predict", "embed"), default="predict")
    parser.add_argument("--workers", type=int, help="run on so many cores of this machine (default: spark-submit says)")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers are this Python, and not the one in PATH
    builder = SparkSession.builder.appName("nanoinfer")
    if arguments.workers:
        builder = builder.master(f"local[{arguments.workers}]").config("spark.driver.bindAddress", "127.0.0.1")
        builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.ui.enabled", False)
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", arguments.batch_size)
    spark = builder.getOrCreate()

    # Spark runs a task on each core (spark.task.cpus), each in a process of its own, so each has one thread.
    predictor = nanoinfer.Predictor(
        arguments.model, arguments.weights, task=arguments.task, threads=1, batch_size=arguments.batch_size
    )
    files = spark.read.format("binaryFile").option("recursiveFileLookup", True).load(arguments.images)
    schema = f"path string, {RESULTS[arguments.task]}, error string, model string, weights string"
    rows = files.select("path", "content").mapInPandas(predictor.pandas, schema)
    rows.write.mode("overwrite").parquet(arguments.output)
    spark.stop()


if __name__ == "__main__":
    main()
