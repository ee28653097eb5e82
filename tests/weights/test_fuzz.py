"""A fixed number of damaged files of every format; `python -m bench.fuzz_weights` reads many more."""

import sys
from pathlib import Path

import pytest

from bench import fuzz_weights


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the memory is told by Linux alone")
def test_damaged_files_give_arrays_or_an_input_error(tmp_path):
    result = fuzz_weights.run(600, seed=1, folder=tmp_path)
    assert not result.crashed
    assert result.loaded > 50 and set(result.refused) == {sound.suffix for sound in fuzz_weights.sound_files()}
    assert result.slowest[0] < fuzz_weights.SECONDS and result.megabytes < 50


def test_a_crash_is_counted_and_ends_with_1(tmp_path, monkeypatch, capsys):
    def crash(source):
        raise KeyError("x")

    monkeypatch.setattr(fuzz_weights, "load_weights", crash)
    monkeypatch.setattr(sys, "argv", ["fuzz_weights", "--files", "3"])
    assert fuzz_weights.main() == 1
    out, err = capsys.readouterr()
    assert "3 files: 0 loaded, 0 refused" in out and err.count("crashed: KeyError('x')") == 3
