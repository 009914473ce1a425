from collections import Counter
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comics.runs.inputs import InputFile, expand_inputs
from comics.runs.shards import Shard

names = st.text(min_size=1, max_size=40)


@given(names, st.integers(1, 50))
def test_every_name_belongs_to_exactly_one_shard(name, count):
    assert sum(Shard(index, count).owns(name) for index in range(1, count + 1)) == 1


def test_shards_are_of_about_the_same_size():
    shards = [Shard(index, 8) for index in range(1, 9)]
    counts = Counter(
        next(s.index for s in shards if s.owns(f"photos/{n:05}.jpg")) for n in range(8000)
    )
    assert all(850 < count < 1150 for count in counts.values())  # 1000 expected, 5 deviations


def test_the_shard_does_not_depend_on_where_the_folder_is_or_what_else_is_in_it(tmp_path):
    shard = Shard(1, 3)
    owned = []
    for place, count in (("a", 30), ("elsewhere/b", 40)):
        for number in range(count):
            path = tmp_path / place / "sub" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        files = expand_inputs([tmp_path / place]).files
        owned.append({f.relative for f in files if shard.owns_file(f)})
    assert owned[0] and owned[0] == {p for p in owned[1] if int(p.stem) < 30}


def test_files_of_one_name_in_many_folders_are_spread(tmp_path):
    paths = [tmp_path / str(number) / "frame.jpg" for number in range(40)]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"x")
    files = expand_inputs(paths).files
    assert 0 < sum(Shard(1, 2).owns_file(file) for file in files) < 40


def test_names_that_are_not_utf8_have_a_shard():
    file = InputFile(Path("caf\udce9.jpg"), PurePath("caf\udce9.jpg"))
    assert sum(Shard(index, 4).owns_file(file) for index in range(1, 5)) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "-1/4", "1", "1/4/2", "a/b", "", "1 / 4"])
def test_other_shards_are_refused(text):
    with pytest.raises(ValueError, match="shard"):
        Shard.parse(text)


def test_a_shard_is_written_as_it_is_read():
    assert Shard.parse("2/8") == Shard(2, 8) and str(Shard(2, 8)) == "2/8"
