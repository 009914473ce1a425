"""What a model file says it was trained on, and for what it may be used.

It is in the file's metadata, so it stays with the weights, and every output shows it. Nothing
in it changes a verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

KNOWLEDGE_KEY = "knowledge"  # of a model file's metadata
UNKNOWN = "The model file does not say what it was trained on."
MAX_LENGTH = 2_000  # characters of a text in it: it is shown on pages
ERROR_RATES_KEY = "error_rates"  # of it, and of a predictor's provenance
MAX_ERROR_RATES = 100


@dataclass(frozen=True)
class ErrorRate:
    """How often a model errs on faces of one size, as it was measured.

    Attributes:
        measured_on: the data, in words.
        faces: how many there were, real and forged.
        min_side, max_side: pixels of the shorter side of a face's box: from the one up to, but
            without, the other, which is None where there is no upper limit.
        real_called_forged, forged_called_forged: shares in [0, 1].
        quality: of the pictures, such as "JPEG 50"; "" where they were as they came.

    Raises:
        ValueError: for a number out of its range.
    """

    measured_on: str
    faces: int
    min_side: float
    max_side: float | None
    real_called_forged: float
    forged_called_forged: float
    quality: str = ""

    def __post_init__(self) -> None:
        shares = (self.real_called_forged, self.forged_called_forged)
        if self.faces < 1 or not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"no error rate: {self}")
        if not 0 <= self.min_side < (math.inf if self.max_side is None else self.max_side):
            raise ValueError(f"sides of no face: {self.min_side} to {self.max_side}")

    def covers(self, side: float) -> bool:
        """Whether it is about faces whose shorter side has that many pixels."""
        return self.min_side <= side < (math.inf if self.max_side is None else self.max_side)

    def sizes(self) -> str:
        """Its sides for people, such as "24 to 48"."""
        upper = "and more" if self.max_side is None else f"to {self.max_side:g}"
        return f"{self.min_side:g} {upper}"

    def sentence(self) -> str:
        """One line for people."""
        quality = f", {self.quality}" if self.quality else ""
        return (
            f"Of faces of {self.sizes()} pixels{quality} ({self.measured_on}, "
            f"{self.faces} faces), {100 * self.real_called_forged:.1f} % of the real ones were "
            f"called forged, and {100 * self.forged_called_forged:.1f} % of the forged ones."
        )

    @classmethod
    def from_entry(cls, told: object) -> ErrorRate:
        """The reverse of ``dataclasses.asdict``.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        if not isinstance(told, Mapping):
            raise TypeError(f"{told!r} is no error rate")
        upper = told["max_side"]
        return cls(
            measured_on=_line(told["measured_on"]),
            faces=int(told["faces"]),
            min_side=float(told["min_side"]),
            max_side=None if upper is None else float(upper),
            real_called_forged=float(told["real_called_forged"]),
            forged_called_forged=float(told["forged_called_forged"]),
            quality=_line(told.get("quality", "")),
        )


@dataclass(frozen=True)
class Knowledge:
    """Which forgeries a model has seen, and which it has not.

    Attributes:
        trained_on: kinds or sources of forgeries, as people call them.
        not_trained_on: kinds that it was measured on, or may meet, without having seen them.
        rights: what the weights may be used for.
        card: where its figures are, a file name or an address; "" where there is none.
        error_rates: by size and quality of face; empty where the file does not say.
    """

    trained_on: tuple[str, ...]
    not_trained_on: tuple[str, ...]
    rights: str
    card: str = ""
    error_rates: tuple[ErrorRate, ...] = ()

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
        told = asdict(self)
        if not self.error_rates:
            del told[ERROR_RATES_KEY]
        return json.dumps(told)

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
            rates = told.get(ERROR_RATES_KEY, [])
            if not isinstance(rates, list) or len(rates) > MAX_ERROR_RATES:
                raise ValueError(f"{ERROR_RATES_KEY} is no list of at most {MAX_ERROR_RATES}")
            return cls(
                seen,
                unseen,
                _line(told["rights"]),
                _line(told.get("card", "")),
                tuple(map(ErrorRate.from_entry, rates)),
            )
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


def error_rates_of(provenance: Mapping[str, object]) -> list[ErrorRate]:
    """The model's error rates in a run's provenance; what is none of them is passed over.

    The provenance may be a stranger's.
    """
    told = provenance.get(ERROR_RATES_KEY)
    found: list[ErrorRate] = []
    for entry in told[:MAX_ERROR_RATES] if isinstance(told, list) else ():
        try:
            found.append(ErrorRate.from_entry(entry))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return found
