"""Error rates by size of face, on their way from a measurement into a model file."""

import json

import numpy as np
import pytest

from comics.evaluation.error_rates import MIN_FACES, rates_by_size, read_rates, write_rates
from comics.inference.knowledge import ErrorRate


def measured(counts):
    """Faces of (side, label, called forged) times a count."""
    rows = [row for row, count in counts.items() for _ in range(count)]
    sides, labels, forged = (np.array(column) for column in zip(*rows, strict=True))
    return labels, forged, sides


def test_each_size_has_its_own_rate():
    labels, forged, sides = measured({
        (30.0, 0, True): 5, (30.0, 0, False): 45, (47.9, 1, True): 12, (24.0, 1, False): 18,
        (96.0, 0, False): 20, (300.0, 1, True): 20,
        (48.0, 0, True): MIN_FACES - 1, (50.0, 1, True): 80,  # too few real ones
        (-1.0, 1, True): 40,  # no box
    })  # fmt: skip
    assert rates_by_size(labels, forged, sides, "photos", "JPEG 50") == [
        ErrorRate("photos", 80, 24, 48, 0.1, 0.4, "JPEG 50"),
        ErrorRate("photos", 40, 96, None, 0.0, 1.0, "JPEG 50"),
    ]


def test_a_table_is_of_one_model_file(tmp_path):
    rates = [ErrorRate("photos", 80, 24, 48, 0.1, 0.4), ErrorRate("写真", 40, 96, None, 0.0, 1.0)]
    path = tmp_path / "rates.json"
    write_rates(path, rates, "a" * 64)
    assert read_rates(path, "a" * 64) == rates
    with pytest.raises(ValueError, match=r"rates\.json: measured with .*aaa.* and not .*bbb"):
        read_rates(path, "b" * 64)
    with pytest.raises(FileNotFoundError):
        read_rates(tmp_path / "none.json", "a" * 64)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", "{}", '{"weights_sha256": "a", "rates": 3}', "{",
     '{"weights_sha256": "a", "rates": [{"faces": 3}]}'],
)  # fmt: skip
def test_what_is_no_table_is_named(tmp_path, content):
    path = tmp_path / "rates.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"rates\.json: no table of error rates"):
        read_rates(path, "a")
    whole = json.dumps({"weights_sha256": "a", "rates": []})
    path.write_text(whole)
    assert read_rates(path, "a") == []
