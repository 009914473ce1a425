"""Which tensors of a checkpoint fit a model, and whether the two are one architecture at all.

Heads for another number of classes may differ, nothing else: a network that is half of one
training and half random looks like a working one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

BODIES = ("backbone", "encoder")  # parts that may come alone, of detectors and of face methods
BODY_NETWORKS = ("backbone.bottom_up.", "encoder.")  # loaded whole, or not at all
SHOWN = 5  # names that an error lists before "and so many more"


@dataclass(frozen=True)
class LoadReport:
    """What loading a foreign checkpoint did, and left open.

    Attributes:
        missing: names of the model that the checkpoint lacks; they keep their initial values.
        unexpected: names of the checkpoint that the model lacks, in our terms where a rule has one.
        misshapen: names whose shapes differ (another number of classes); they keep their values.
        shapes: of the misshapen names: (the model's, the checkpoint's).
        loaded: names of the model that get the checkpoint's values.
        source_format: of ``formats.recognise``; "" where no file was recognised.
        warnings: settings of the model that do not suit the weights, a sentence each.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    source_format: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every name of model and checkpoint found its counterpart."""
        return not (self.missing or self.unexpected or self.misshapen)

    def lines(self) -> list[str]:
        """What is left open: a line a kind, with every name."""
        reshaped = [self.reshaped(name) for name in self.misshapen]
        kinds = (
            ("of the model are not in the file and keep their initial values", self.missing),
            ("have another shape in the file and keep their random initial values", reshaped),
            ("of the file are not in the model", self.unexpected),
        )
        return [
            f"{len(names)} tensors {text}: {', '.join(names)}" for text, names in kinds if names
        ]

    def reshaped(self, name: str) -> str:
        """A misshapen name with both shapes."""
        own, theirs = self.shapes[name]
        return f"{name} (model {list(own)}, file {list(theirs)})"


def match(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Compare names and shapes; nothing is loaded.

    Counters of batch norms are not reported: frozen norms have none.
    """
    own = model.state_dict()
    shared = own.keys() & state.keys()
    shapes = {name: (tuple(own[name].shape), tuple(state[name].shape)) for name in shared}
    misshapen = sorted(name for name in shared if shapes[name][0] != shapes[name][1])
    return LoadReport(
        missing=sorted(n for n in own.keys() - state.keys() if not _is_counter(n)),
        unexpected=sorted(n for n in state.keys() - own.keys() if not _is_counter(n)),
        misshapen=misshapen,
        shapes={name: shapes[name] for name in misshapen},
        loaded=sorted(shared.difference(misshapen)),
    )


def load_matching(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Load what fits by name and shape, and tell what does not, as ``match``."""
    report = match(model, state)
    model.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    return report


def check_architecture(
    model: nn.Module, prefix: str, state: Mapping[str, Tensor], report: LoadReport
) -> None:
    """Refuse a checkpoint that would fill a model in part.

    It may hold a backbone alone (or an encoder), and more parts than the model. It may not lack
    heads of the model while it has others, have another backbone, or other widths.

    Args:
        model: that the checkpoint is for.
        prefix: of the detector's (or face method's) names in the model, "" or "detector.".
        state: the checkpoint's tensors by the model's names.
        report: of ``match``.

    Raises:
        ValueError: naming parts or tensors that differ.
    """
    given = _parts(state, prefix)
    lacking = _parts(model.state_dict(), prefix) - given
    if given and lacking:
        raise ValueError(
            f"it is of another architecture: the model has {_listed(lacking)}, the file has "
            f"{_listed(given)}"
        )
    for network in (prefix + name for name in BODY_NETWORKS):
        if any(name.startswith(network) for name in state):
            _check_body(network, report)
    # A head's classes are its outputs, the first side of a weight
    others = [n for n, (own, theirs) in report.shapes.items() if own[1:] != theirs[1:]]
    if others:
        raise ValueError(
            "it is of another architecture, with layers of other widths: "
            + _listed(report.reshaped(name) for name in others)
        )


def _check_body(network: str, report: LoadReport) -> None:
    kinds = {"missing": report.missing, "unexpected": report.unexpected,
             "of another shape": report.misshapen}  # fmt: skip
    faults = {
        kind: [name for name in names if name.startswith(network)] for kind, names in kinds.items()
    }
    if any(faults.values()):
        text = "; ".join(f"{kind}: {_listed(names)}" for kind, names in faults.items() if names)
        raise ValueError(f"it is of another architecture, its {network[:-1]} differs: {text}")


def _parts(names: Iterable[str], prefix: str) -> set[str]:
    """Modules directly below the prefix, but for the body."""
    inner = {n.removeprefix(prefix).split(".")[0] for n in names if n.startswith(prefix)}
    return inner - set(BODIES)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    rest = len(ordered) - SHOWN
    return ", ".join(ordered[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
