import json
import xml.etree.ElementTree as ET

import pytest

from comics.pages.curves import curve_panels, curves_svg, read_curves

RECORDS = [
    {"iteration": 20, "loss/total": 3.0, "loss/cls": 1.0, "lr": 0.1, "seconds": 0.5},
    {"iteration": 40, "loss/total": 2.0, "loss/cls": None, "lr": 0.1},
    {"iteration": 40, "segm/AP": 12.5, "bbox/AP": 14.0},
]


def test_records_are_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    assert read_curves(path) == RECORDS


def test_a_last_line_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1, "loss/total": 2}\n{"iteration": 2, "lo')
    assert read_curves(path) == [{"iteration": 1, "loss/total": 2}]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", "3", '{"loss/total": 1}'])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"iteration": 1}}\n{line}\n{{"iteration": 3}}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_curves(path)


def test_numbers_are_sorted_into_panels():
    assert curve_panels(RECORDS) == {
        "Training losses": {"total": [(20, 3.0), (40, 2.0)], "cls": [(20, 1.0)]},
        "Validation: segm": {"AP": [(40, 12.5)]},
        "Validation: bbox": {"AP": [(40, 14.0)]},
    }


def test_svg_is_well_formed_escaped_and_takes_the_colour_of_the_page():
    hostile = "loss/<script>alert(1)</script>&"
    svg = curves_svg([*RECORDS, {"iteration": 60, hostile: 1.0}])
    root = ET.fromstring(svg)
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]
    assert {"Training losses", "Validation: segm", "total"} <= set(texts)
    assert "<script>alert(1)</script>&" in texts
    assert "<script" not in svg
    assert "currentColor" in svg and "#010203" not in svg


def test_same_curves_same_svg():
    assert curves_svg(RECORDS) == curves_svg(RECORDS)


def test_nothing_to_draw_gives_nothing():
    assert curves_svg([]) is None
    assert curves_svg([{"iteration": 1, "lr": 0.1}]) is None
