"""What a model file says that it was trained on."""

import json
from dataclasses import asdict

import pytest

from comics.inference.knowledge import (
    KNOWLEDGE_KEY,
    MAX_LENGTH,
    UNKNOWN,
    ErrorRate,
    Knowledge,
    error_rates_of,
    knowledge_sentence,
)

KNOWN = Knowledge(("face swaps", "StyleGAN"), ("NeuralTextures",), "Research use only.", "card.md")


def test_one_line_for_people():
    assert KNOWN.sentence() == (
        "Trained on these forgeries: face swaps, StyleGAN. Never seen: NeuralTextures. "
        "Research use only. Figures: card.md."
    )
    assert Knowledge((), (), "Free.").sentence() == "Trained on these forgeries: none. Free."


def test_it_survives_a_model_file():
    assert Knowledge.from_metadata({KNOWLEDGE_KEY: KNOWN.to_text()}, "m") == KNOWN
    assert Knowledge.from_metadata({"version": "1"}, "m") is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{}", '{"trained_on": 3, "not_trained_on": [], "rights": ""}',
     '{"trained_on": [null], "not_trained_on": [], "rights": ""}'],
)  # fmt: skip
def test_what_cannot_be_used_names_the_file(text):
    with pytest.raises(ValueError, match=r"m\.safetensors"):
        Knowledge.from_metadata({KNOWLEDGE_KEY: text}, "m.safetensors")


def test_a_strangers_text_stays_one_short_line():
    told = {"trained_on": ["a\nb\u2028c"], "not_trained_on": [], "rights": "x" * 10**6}
    found = Knowledge.from_text(json.dumps(told), "m")
    assert found.trained_on == ("a b c",) and len(found.rights) == MAX_LENGTH


def test_outputs_say_when_nothing_is_known():
    assert knowledge_sentence({}) == UNKNOWN == knowledge_sentence({"knowledge": 3})
    assert knowledge_sentence({"knowledge": KNOWN.sentence()}) == KNOWN.sentence()


RATES = (
    ErrorRate("test photos", 120, 24, 48, 0.05, 0.7),
    ErrorRate("test photos", 80, 48, None, 0.03, 0.9, "JPEG 50"),
)


def test_error_rates_travel_with_the_weights_and_into_results():
    known = Knowledge(("swaps",), (), "Free.", error_rates=RATES)
    assert Knowledge.from_text(known.to_text(), "m") == known
    assert known.sentence() == Knowledge(("swaps",), (), "Free.").sentence()
    assert "error_rates" not in json.loads(KNOWN.to_text())  # as files of before had it
    entries = json.loads(json.dumps([asdict(rate) for rate in RATES]))
    assert error_rates_of({"error_rates": entries}) == list(RATES)
    assert [rate.covers(48) for rate in RATES] == [False, True]
    assert [rate.covers(47.9) for rate in RATES] == [True, False]
    assert "24 to 48 pixels" in RATES[0].sentence() and "5.0 %" in RATES[0].sentence()
    assert "48 and more pixels, JPEG 50" in RATES[1].sentence()


@pytest.mark.parametrize(
    "change",
    [{"faces": 0}, {"real_called_forged": 1.2}, {"forged_called_forged": float("nan")},
     {"min_side": 50}, {"min_side": -1}, {"measured_on": None}, {"faces": "many"},
     {"max_side": "x"}],
)  # fmt: skip
def test_error_rates_that_are_none(change):
    entry = asdict(RATES[0]) | change
    text = json.dumps(
        {"trained_on": [], "not_trained_on": [], "rights": "", "error_rates": [entry]}
    )
    with pytest.raises(ValueError, match=r"m\.safetensors"):
        Knowledge.from_text(text, "m.safetensors")
    # Of a run's results, which may be a stranger's, they are passed over
    assert error_rates_of({"error_rates": [entry, asdict(RATES[1])]}) == [RATES[1]]
    assert error_rates_of({"error_rates": "x"}) == error_rates_of({}) == []
