"""The default number of threads: from the environment, the affinity and the quotas of cgroups."""

import pytest

import nanoinfer
from nanoinfer import cgroups, runtime
from tests.helpers import refused


@pytest.fixture
def default_threads(monkeypatch, tmp_path):
    """A function that gives the default number of threads on a machine of `cores` cores.

    `quotas` is {cgroup file: content}, `own` the text of /proc/self/cgroup; OMP="5" sets OMP_NUM_THREADS.
    """
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "own")

    def count(cores=8, quotas=None, own="0::/\n", **environment):
        for variable in ("NANOINFER_NUM_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(variable, raising=False)
        for variable, value in environment.items():
            monkeypatch.setenv(f"{variable}_NUM_THREADS", value)

        for name, content in {"own": own, **(quotas or {})}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
        return runtime.default_threads()

    return count


def test_default_threads_from_the_environment(default_threads):
    assert default_threads(NANOINFER="3", OMP="5") == 3
    assert default_threads(OMP="5") == 5
    assert default_threads(OMP="4,2") == 4  # OpenMP's list, one size for each level of nesting
    assert default_threads(OMP=" 6 ") == 6
    assert default_threads(NANOINFER="", OMP="5") == 5
    for nonsense in ("", "0", "-1", "many", "2.5"):
        assert default_threads(OMP=nonsense) == 8


@pytest.mark.parametrize("value", ["0", "-1", "many", "2.5"])
def test_environment_variable_that_is_no_count_is_refused(default_threads, value):
    with refused(f"NANOINFER_NUM_THREADS='{value}': set it to a whole number"):
        default_threads(NANOINFER=value, OMP="5")


def test_default_threads_from_affinity_and_quota(default_threads):
    assert default_threads(cores=3) == 3
    for cores, quota, size in (
        (8, "max 100000\n", 8), (8, "200000 100000\n", 2), (8, "150000 100000\n", 2), (8, "1000 100000\n", 1),
        (2, "400000 100000\n", 2), (2, "strange\n", 2),
    ):  # fmt: skip
        assert default_threads(cores, {"cpu.max": quota}) == size


def test_default_threads_from_the_quotas_of_nested_groups(default_threads):
    """The least quota of the process's own group and of the groups above it counts, in both versions of cgroups."""
    assert default_threads(8, {"a/b/cpu.max": "300000 100000\n"}, "0::/a/b\n") == 3
    assert default_threads(8, {"a/cpu.max": "200000 100000\n"}, "0::/a/b\n") == 2
    assert default_threads(8, {"c/cpu.max": "100000 100000\n"}, "0::/a/b\n") == 2
    first = "5:memory:/m\n4:cpu,cpuacct:/old\n"
    assert (
        default_threads(8, {"cpu/old/cpu.cfs_quota_us": "500000\n", "cpu/old/cpu.cfs_period_us": "100000\n"}, first)
        == 5
    )
    assert default_threads(8, {"cpu/old/cpu.cfs_quota_us": "-1\n"}, first) == 8


def test_threads_argument_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("NANOINFER_NUM_THREADS", "3")
    assert nanoinfer.create_model("digits").threads == 3
    assert nanoinfer.create_model("digits", threads=2).threads == 2
