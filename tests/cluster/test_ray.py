"""Two workers of a Ray cluster on this machine, whose rows are those of the command line without it, bit by bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nanoinfer
from nanoinfer.batch import ray_engine
from tests.batch.conftest import write_tar
from tests.cli.command_line import ROOT, SAMPLES, process, refused
from tests.cluster.results import records

pytestmark = pytest.mark.cluster
TWO = ("--engine", "ray", "--workers", "2", "--batch-size", "4")


@pytest.fixture(scope="module")
def ray():
    """The module, connected to a cluster of two cores that answers on the loopback address."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    import ray.data

    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


@pytest.mark.parametrize("task", ["predict", "embed"])
def test_files_are_those_of_a_local_run(ray, run, photos, expected, tmp_path, task):
    code, _, err = run(task, photos, "-m", "digits", *TWO, "-o", tmp_path / "o.parquet")
    assert (code, err.count("\n")) == (1, 3), err  # a line for each broken image
    assert (tmp_path / "o.parquet").read_bytes() == expected[task].read_bytes()


def test_lines_on_standard_output_and_rows_as_they_are_ready(ray, run, photos):
    lines = {}
    for name, options in {"local": (), "ray": TWO, "unordered": (*TWO, "--unordered")}.items():
        code, out, _ = run("predict", photos, "-m", "digits", "--format", "jsonl", *options)
        assert code == 1
        lines[name] = out.splitlines()
    assert lines["ray"] == lines["local"] and sorted(lines["unordered"]) == sorted(lines["local"])


def test_a_local_run_is_gone_on_with_by_ray(ray, run, tmp_path):
    whole, output = tmp_path / "whole.jsonl", tmp_path / "o.jsonl"
    assert run("predict", *SAMPLES, "-o", whole)[0] == 0
    assert run("predict", *SAMPLES[:4], "-o", output)[0] == 0
    assert run("predict", *SAMPLES, *TWO, "--resume", "-o", output)[0] == 0
    assert output.read_bytes() == whole.read_bytes()


def test_a_cluster_is_reached_by_its_address(ray, expected, photos, tmp_path):
    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    options = ("-m", "digits", *TWO, "--address", address, "-o", tmp_path / "o.parquet")
    done = process("predict", photos, *options)
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "o.parquet").read_bytes() == expected["predict"].read_bytes()


def test_what_a_cluster_does_not_take_is_refused(ray, run, tmp_path):
    write_tar(tmp_path / "a.tar", {path.name: path.read_bytes() for path in SAMPLES})
    refused(run("predict", tmp_path / "a.tar", *TWO, "--format", "jsonl"), "no images in archives", "ray_data.py")
    many = ("--engine", "ray", "--workers", "3", "--format", "jsonl")
    refused(run("predict", SAMPLES[0], *many), "cores for 2 workers of 1 threads", "fewer --workers")
    refused(run("predict", SAMPLES[0], *TWO), "-o OUT.parquet or --format jsonl")
    refused(run("predict", SAMPLES[0], "--workers", "2"), "add --engine ray")


def mapped(ray, images, predictor):
    """Columns of results of two actors of one core each, for a folder's files as bytes."""
    files = ray.data.read_binary_files(str(images), include_paths=True, num_cpus=0)
    rows = files.map_batches(
        predictor,
        fn_constructor_args=("digits",),
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    return rows.to_pandas()


def test_actors_share_the_work_and_have_a_thread_for_each_core(ray, photos, expected):
    class Telling(nanoinfer.Predictor):
        def __call__(self, batch):
            columns = super().__call__(batch)
            told = {"worker": os.getpid(), "omp": int(os.environ["OMP_NUM_THREADS"]), "threads": self.model.threads}
            return {**columns, **{name: np.full(len(columns["error"]), value) for name, value in told.items()}}

    frame = mapped(ray, photos, Telling)
    assert frame["worker"].nunique() == 2 and {*frame["omp"], *frame["threads"]} == {1}
    rows = records(expected["predict"])
    assert len(frame) == len(rows) == 60
    for made in frame.to_dict("records"):
        row = rows[made["path"]]
        assert (made["error"] is not None) == bool(row["error"])
        if row["error"] is None:
            assert [*made["indices"]] == row["indices"] and [*made["probabilities"]] == row["probabilities"]
            assert [*made["labels"]] == row["labels"]


def mortal(died):
    """A Predictor whose process is killed at the end of its first batch, unless the file `died` is there."""

    class Mortal(nanoinfer.Predictor):
        def __call__(self, batch):
            columns = super().__call__(batch)
            try:
                died.touch(exist_ok=False)
            except FileExistsError:
                return columns
            os.kill(os.getpid(), signal.SIGKILL)

    return Mortal


def test_batches_of_a_worker_that_dies_are_done_by_another(ray, photos, expected, tmp_path):
    died = tmp_path / "died"
    frame = mapped(ray, photos, mortal(died))
    rows = records(expected["predict"])
    assert died.exists() and sorted(frame["path"]) == sorted(rows)
    good = frame[frame["error"].isna()]
    assert {made.path: [*made.probabilities] for made in good.itertuples()} == {
        name: row["probabilities"] for name, row in rows.items() if row["error"] is None
    }


def test_lines_stay_whole_where_a_worker_dies(ray, run, photos, tmp_path, monkeypatch):
    expected = run("predict", photos, "-m", "digits", "--format", "jsonl")
    monkeypatch.setattr(ray_engine, "Predictor", mortal(tmp_path / "died"))
    code, out, _ = run("predict", photos, "-m", "digits", "--format", "jsonl", *TWO)
    assert (tmp_path / "died").exists() and (code, out) == expected[:2]


def test_the_example_starts_a_cluster_of_its_own(photos, expected, tmp_path):
    command = [sys.executable, Path(ROOT, "examples", "ray_data.py"), photos, tmp_path / "o", "--workers", "2"]
    subprocess.run([*map(str, command), "--task", "embed"], check=True, capture_output=True, timeout=120)
    assert records(tmp_path / "o") == records(expected["embed"])
