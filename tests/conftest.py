"""Fixtures of several folders."""

import sys

import pytest

from nanoinfer import cli
from tests.helpers import NETWORKS


def pytest_runtest_setup():
    """Run torch on one thread: beside other work, two that wait for each other take many times as long."""
    if "torch" in sys.modules:  # no test imports it for this alone
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", params=NETWORKS)
def small_network(request, tmp_path_factory):
    """A `tests.networks.Network` of the published depth and width that takes small images.

    Of session scope, so that pytest runs all tests of one network together: each network is made once, and one is in
    memory at a time.
    """
    from tests.networks import SEEDS, Network  # imports torch, which other tests can do without

    arguments, size = NETWORKS[request.param]
    return Network(request.param, SEEDS[0], tmp_path_factory.mktemp("weights"), size, **arguments)


@pytest.fixture
def run(capsys):
    """run("predict", ...) -> (exit code, standard output, standard error)."""

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run
