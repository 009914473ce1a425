"""What a model file says it was trained on, and for what it may be used.

It is in the file's metadata, so it stays with the weights, and every output shows it. Nothing
in it changes a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

KNOWLEDGE_KEY = "knowledge"  # of a model file's metadata
UNKNOWN = "The model file does not say what it was trained on."
MAX_LENGTH = 2_000  # characters of a text in it: it is shown on pages


@dataclass(frozen=True)
class Knowledge:
    """Which forgeries a model has seen, and which it has not.

    Attributes:
        trained_on: kinds or sources of forgeries, as people call them.
        not_trained_on: kinds that it was measured on, or may meet, without having seen them.
        rights: what the weights may be used for.
        card: where its figures are, a file name or an address; "" where there is none.
    """

    trained_on: tuple[str, ...]
    not_trained_on: tuple[str, ...]
    rights: str
    card: str = ""

    def sentence(self) -> str:
        """One line for people."""
        told = [f"Trained on these forgeries: {', '.join(self.trained_on) or 'none'}."]
        if self.not_trained_on:
            told.append(f"Never seen: {', '.join(self.not_trained_on)}.")
        told.append(self.rights)
        if self.card:
            told.append(f"Figures: {self.card}.")
        return " ".join(told)

    def to_text(self) -> str:
        """JSON, for a model file's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str, source: object) -> Knowledge:
        """The reverse.

        Raises:
            ValueError: naming ``source``, if it is no such JSON.
        """
        try:
            told = json.loads(text)
            seen, unseen = (
                tuple(map(_line, told[name])) for name in ("trained_on", "not_trained_on")
            )
            return cls(seen, unseen, _line(told["rights"]), _line(told.get("card", "")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{source}: what the model knows is unusable: {error!r}") from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: object) -> Knowledge | None:
        """What a model file says; None if it says nothing.

        Raises:
            ValueError: naming the file ``path``, if what it says is unusable.
        """
        text = metadata.get(KNOWLEDGE_KEY)
        return None if text is None else cls.from_text(text, path)


def _line(text: object) -> str:
    """A text of a stranger's file, as one line of bounded length."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    return " ".join(text.split())[:MAX_LENGTH]


def knowledge_sentence(provenance: Mapping[str, object]) -> str:
    """The line for people, from the provenance of a predictor or of a run."""
    told = provenance.get(KNOWLEDGE_KEY)
    return told if isinstance(told, str) and told else UNKNOWN
