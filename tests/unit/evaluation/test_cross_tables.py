"""Cross-dataset and cross-manipulation tables from result files."""

import csv
import io
import json
import math

import pytest

from comics.evaluation.tables import cross_table, load_test_results


def entry(method, train, test, **figures):
    return {"method": method, "train": train, "test": test, "figures": figures}


ENTRIES = [
    entry("DCL", "DF", "DF", AUC=0.9998, EER=0.01),
    entry("DCL", "DF", "F2F", AUC=0.7713, EER=0.30),
    entry("Xception", "DF", "DF", AUC=0.9997, EER=0.005),
    entry("Xception", "DF", "F2F", AUC=0.7632, EER=None),
    entry("DCL", "F2F", "DF", AUC=0.9191, EER=0.15),
]


@pytest.fixture
def table(tmp_path):
    one, many = tmp_path / "one.json", tmp_path / "many.json"
    one.write_text(json.dumps(ENTRIES[0]))
    many.write_text(json.dumps(ENTRIES[1:]))
    return cross_table(load_test_results(one) + load_test_results(many))


def test_layout(table):
    assert table.rows == [("DF", "DCL"), ("DF", "Xception"), ("F2F", "DCL")]
    assert table.tests == ["DF", "F2F"]
    lines = table.markdown().split("\n")
    assert lines[0].split(" | ")[2:4] == ["DF AUC", "DF EER"]
    dcl, xception, other = ([c.strip() for c in line.strip("|").split("|")] for line in lines[2:])
    # intra-domain in italics, the best of a training set in bold, EER: lower is better
    assert dcl == ["DF", "DCL", "***99.98***", "*1.00*", "**77.13**", "30.00", "77.13", "30.00"]
    assert xception[2:6] == ["*99.97*", "***0.50***", "76.32", "-"]
    assert other == ["F2F", "DCL", "91.91", "15.00", "-", "-", "91.91", "15.00"]


def test_mean_leaves_out_the_training_domain(table):
    assert table.mean_of_others("DF", "DCL", "AUC") == pytest.approx(0.7713)
    assert math.isnan(table.mean_of_others("DF", "Xception", "EER"))


def test_csv_keeps_all_digits(table):
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert rows[0] == ["train", "method", "test", "metric", "value"]
    assert ["DF", "DCL", "F2F", "AUC", "0.7713"] in rows


def test_names_do_not_break_the_table():
    import dataclasses

    from comics.evaluation.tables import TestResult

    result = TestResult("a|b", "c\nd", "t", {"AUC": 0.5}, "x")
    lines = cross_table([result], ["AUC"]).markdown().split("\n")
    assert len(lines) == 3 and "a\\|b" in lines[2]
    assert dataclasses.is_dataclass(result)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([3], "entry 0 must be an object"),
        ([{"method": "a"}], "entry 0 has no train, test, figures"),
        ([entry("a", "b", "c", AUC="high")], "entry 0: AUC must be a number"),
        (
            [entry("a", "b", "c", AUC=0.5), entry("a", "b", "c", AUC=0.5)],
            "both hold a trained on b",
        ),
        ([entry("a", "b", "c", AP=0.5)], r"no result has any of .* they have \['AP'\]"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        cross_table(load_test_results(path))
