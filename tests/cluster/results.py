"""Results of engines, to be compared with those of the command line."""

from pyarrow import parquet

RESULTS = {
    "predict": "labels array<string>, indices array<int>, probabilities array<double>",
    "embed": "embedding array<float>",
}


def records(path):
    """{path: the row} of Parquet files. Its error is True or None, as engines that carry bytes word some otherwise."""
    rows = {row["path"].removeprefix("file:"): row for row in parquet.read_table(path).to_pylist()}
    return {name: {**row, "path": name, "error": row["error"] and True} for name, row in rows.items()}
