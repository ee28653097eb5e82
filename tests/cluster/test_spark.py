"""Two Python workers of Spark on this machine, whose rows are those of the command line, bit by bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nanoinfer
from tests.cli.command_line import ROOT
from tests.cluster.results import RESULTS, records

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def files():
    """The function that reads a folder's files into a frame of two partitions."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers are this Python, and not the one in PATH
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", False)
    for name, value in {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.sql.execution.arrow.maxRecordsPerBatch": 7,
    }.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", True)
    yield lambda folder: reader.load(str(folder)).select("path", "content").repartition(2)
    spark.stop()


def without_empty_files(path):
    """The records of a Parquet file but those of empty images, which Spark's reader of binary files passes over."""
    rows = {name: row for name, row in records(path).items() if os.path.getsize(name)}
    assert len(rows) == 59 and sum(row["error"] is not None for row in rows.values()) == 2
    return rows


@pytest.mark.parametrize("task", RESULTS)
def test_data_frames_to_files_like_those_of_the_command_line(files, photos, expected, tmp_path, task):
    predictor = nanoinfer.Predictor("digits", task=task, threads=1, batch_size=4)
    schema = f"path string, {RESULTS[task]}, error string, model string, weights string"
    files(photos).mapInPandas(predictor.pandas, schema).write.parquet(str(tmp_path / "o"))
    assert records(tmp_path / "o") == without_empty_files(expected[task])


def test_batches_of_a_udf(files, photos, expected):
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.types import StructType

    predictor = nanoinfer.Predictor("digits", threads=1)
    returned = StructType.fromDDL(f"{RESULTS['predict']}, error string, model string, weights string")
    predicted = predict_batch_udf(lambda: predictor, return_type=returned, batch_size=16)
    made = files(photos).select("path", predicted("content").alias("made")).collect()
    rows = without_empty_files(expected["predict"])
    assert {row.path.removeprefix("file:") for row in made} == {*rows}
    for path, result in made:
        row = rows[path.removeprefix("file:")]
        if row["error"] is None:
            assert (result.labels, result.indices) == (row["labels"], row["indices"])
            assert result.probabilities == row["probabilities"] and result.error is None
        else:
            assert result.error and (result.indices, result.probabilities) == ([-1] * 5, [None] * 5)


def test_workers_are_two_processes_of_one_thread(files, photos):
    def tell(batches):
        for batch in batches:
            yield batch.assign(worker=os.getpid(), omp=os.environ.get("OMP_NUM_THREADS"))[["worker", "omp"]]

    told = files(photos).mapInPandas(tell, "worker long, omp string").collect()
    assert len(told) == 59 and len({row.worker for row in told}) == 2 and {row.omp for row in told} == {"1"}


def test_the_example_writes_such_files(photos, expected, tmp_path):
    command = [sys.executable, Path(ROOT, "examples", "spark.py"), photos, tmp_path / "o", "--workers", "2"]
    subprocess.run([*map(str, command), "--task", "embed"], check=True, capture_output=True, timeout=120)
    assert records(tmp_path / "o") == without_empty_files(expected["embed"])
