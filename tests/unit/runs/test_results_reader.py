import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.runs.results_reader import ResultsError, _Reader, inner_path, read_members

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def members_of(document):
    for name, value in document.items():
        if isinstance(value, list):
            yield from ((name, item) for item in value)
        else:
            yield name, value


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=5), st.integers(1, 9), st.booleans())
def test_a_stream_says_what_the_whole_document_says(document, chunk, spaced):
    text = json.dumps(document, indent=2 if spaced else None)
    assert list(_Reader(io.StringIO(text), chunk).members()) == list(members_of(document))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_document_that_is_cut_or_damaged_is_an_error_as_it_is_for_json(data):
    text = json.dumps({"a": [1, {"b": "x"}], "c": 12.5, "d": [], "e": True})
    at = data.draw(st.integers(0, len(text) - 1))
    kind = data.draw(st.sampled_from(["cut", "drop", "put"]))
    if kind == "cut":
        damaged = text[:at]
    elif kind == "drop":
        damaged = text[:at] + text[at + 1 :]
    else:
        damaged = text[:at] + data.draw(st.sampled_from('{}[],:"1x')) + text[at:]
    try:
        expected = list(members_of(json.loads(damaged)))
    except ValueError:
        with pytest.raises(ValueError):
            list(_Reader(io.StringIO(damaged), 3).members())
    else:
        assert list(_Reader(io.StringIO(damaged), 3).members()) == expected


@pytest.mark.parametrize("text", ["", "[]", "12", '{"a": 1} x', '{"a": [1, 2}', "{1: 2}"])
def test_what_is_no_object_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match="results.json: not a JSON object"):
        list(read_members(path))


def test_files_that_are_absent_or_no_text(tmp_path):
    with pytest.raises(ResultsError, match="no such file"):
        list(read_members(tmp_path / "results.json"))
    (tmp_path / "results.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ResultsError, match="not a JSON object"):
        list(read_members(tmp_path / "results.json"))
    with pytest.raises(ResultsError, match="cannot be read"):
        list(read_members(tmp_path))


def test_memory_is_that_of_one_item(tmp_path):
    path = tmp_path / "results.json"
    with open(path, "w") as file:
        file.write('{"results": [')
        file.write(",".join(json.dumps({"n": n, "text": "x" * 500}) for n in range(4000)))
        file.write("]}")
    with open(path) as file:
        reader = _Reader(file, 1 << 12)
        longest = 0
        for position, (_, item) in enumerate(reader.members()):
            assert item["n"] == position
            longest = max(longest, len(reader._text))
    assert position == 3999 and longest < 3 * (1 << 12)


def test_names_in_a_document_lead_to_files_of_the_run_only(tmp_path):
    folder = tmp_path / "run"
    (folder / "media").mkdir(parents=True)
    inside, outside = folder / "media" / "a.jpg", tmp_path / "secret"
    inside.write_bytes(b"1")
    outside.write_bytes(b"1")
    (folder / "link").symlink_to(outside)
    assert inner_path(folder, "media/a.jpg") == inside.resolve()
    bad = ["../secret", str(outside), "link", "media", "", "x" * 5000, "a\0b", "\udc80", 5, None]
    for name in bad:
        assert inner_path(folder, name) is None, name
