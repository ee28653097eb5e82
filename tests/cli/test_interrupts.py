"""Ctrl-C at any moment: exit code 130 and no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nanoinfer
from nanoinfer import cli
from nanoinfer.cli import commands
from tests.cli.command_line import ROOT

PACKAGE = str(Path(nanoinfer.__file__).parent)
DELAYS = (0, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 400)  # milliseconds
SCRIPT = "import sys\nfrom nanoinfer.cli import main\nprint('started', flush=True)\nsys.exit(main())"


def interrupted(command, delay, environment=None):
    """(exit code, standard error) of a command that gets SIGINT so many milliseconds after its first line of output."""
    environment = {**os.environ, **(environment or {})}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, **pipes) as process:
        assert process.stdout.readline() == "started\n"
        time.sleep(delay / 1000)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    return process.returncode, err


def check(code, err):
    """Nothing of the package stands in a traceback; before it runs, an interrupt is Python's to report."""
    assert PACKAGE not in err, err
    assert code in (0, 130) or "KeyboardInterrupt" in err, err


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("delay", DELAYS)
def test_interrupted_script_exits_with_130(delay):
    check(*interrupted([sys.executable, "-c", SCRIPT, "predict"], delay))


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("delay", DELAYS)
def test_interrupted_module_exits_with_130(delay, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('started', flush=True)")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    check(*interrupted([sys.executable, "-m", "nanoinfer", "predict"], delay, {"PYTHONPATH": path}))


def test_interrupt_in_finaliser_ends_command(monkeypatch, capsys):
    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def command(arguments):
        Finalised()  # Python drops what its finaliser raises
        time.sleep(60)

    monkeypatch.setattr(commands, "models", command)
    assert cli.main(["models"]) == 130
    assert capsys.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_during_import_ends_process(tmp_path):
    (tmp_path / "dropping.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    pass\n"
    )
    script = (
        "import sys\n"
        "from nanoinfer import cli\n"
        "from nanoinfer.cli import commands\n"
        "commands.models = lambda arguments: __import__('dropping') and 0\n"
        "sys.exit(cli.main(['models']))"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_other_interrupt_handlers_are_kept(monkeypatch):
    def handler(number, frame):
        pass

    former = signal.signal(signal.SIGINT, handler)
    try:
        monkeypatch.setattr(commands, "models", lambda arguments: signal.getsignal(signal.SIGINT) is not handler)
        assert cli.main(["models"]) == 0
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, former)


def test_interrupt_within_an_import_keeps_the_rows_so_far(tmp_path):
    """Rows that wait in the buffer of a file are written, though the process ends in the midst of an import."""
    module = tmp_path / "slow_module.py"
    module.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(10)\n")
    code = (
        "import sys\nfrom nanoinfer.cli.interrupts import Interruptible\n"
        "with Interruptible(last=True):\n    print('a row')\n    import slow_module\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "PYTHONUNBUFFERED": ""}
    with open(tmp_path / "out", "w") as out:
        done = subprocess.run([sys.executable, "-c", code], stdout=out, env=environment, timeout=30)
    assert (done.returncode, (tmp_path / "out").read_text()) == (130, "a row\n")
