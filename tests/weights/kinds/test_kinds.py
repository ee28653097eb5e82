"""Every row of the table in docs/checkpoints.md: what such a source gives, compared with torch, or its message."""

import re
from pathlib import Path

import pytest
from nanoinfer.weights import read_weights

from tests.weights.files import assert_equals_torch, refused_source
from tests.weights.kinds import others, torch_saved, trainers

DOCUMENT = Path(__file__).parents[3] / "docs" / "checkpoints.md"
KINDS = torch_saved.KINDS | trainers.KINDS | others.KINDS


def rows():
    """{kind: outcome} of the document's first table."""
    table = DOCUMENT.read_text(encoding="utf-8").split("| --- | --- |\n")[1].split("\n\n")[0]
    return dict(re.fullmatch(r"\| (.+) \| (.+) \|", line).groups() for line in table.splitlines())


ROWS = rows()


def test_the_table_has_a_row_for_each_kind():
    assert set(ROWS) == set(KINDS)
    assert len(KINDS) == len(torch_saved.KINDS) + len(trainers.KINDS) + len(others.KINDS)


@pytest.mark.filterwarnings("ignore:.*(sparse|quantiz|TypedStorage|retrieve source|torch.jit).*")
@pytest.mark.parametrize("kind", KINDS)
def test_kind_has_the_outcome_of_its_row(kind, tmp_path):
    sources, expected = KINDS[kind](tmp_path)
    outcome, _, words = ROWS[kind].partition(' "')
    parts = words.removesuffix('"').split(" ... ") if words else []
    assert sources and outcome == ("refused:" if expected is None else "loads, saying" if words else "loads")
    for source in sources:
        if expected is None:
            refused_source(source, *parts)
            continue
        weights = read_weights(source)
        assert_equals_torch(weights.arrays, expected)
        assert kind in others.KINDS or list(weights.arrays) == list(expected)
        assert not parts or re.search(".*".join(map(re.escape, parts)), "\n".join(weights.notes))
        assert all("\n" not in note for note in weights.notes)
