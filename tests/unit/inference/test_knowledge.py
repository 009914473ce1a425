"""What a model file says that it was trained on."""

import json

import pytest

from comics.inference.knowledge import (
    KNOWLEDGE_KEY,
    MAX_LENGTH,
    UNKNOWN,
    Knowledge,
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
