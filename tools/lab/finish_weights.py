#!/usr/bin/env python
"""Write into a model file what its training pictures look like, and what it knows.

The windows of faces drawn from --sources, alike from each, are described (comics.ops.
picture_statistics), as they are and as a degradation leaves them (INPUT.FACE.DEGRADE of the
training's --config-file), and a Gaussian is fitted. A face further away than --share of the faces
of every source of --validation is "unclear: unfamiliar" from then on. With --max-blockiness a face
with steeper steps across a codec's blocks is "unclear: compressed".

--trained-on, --not-trained-on, --rights and --card are shown by every output of the model.

--error-rates: tables that tools/lab/benchmark_sources.py and benchmark_photos.py wrote of this very
file (error_rates.json): how often it errs by size and quality of face, which reports show. Alone,
that is all that is added; what the file says of itself otherwise stays.

Exit code: 0 done; 2 unusable arguments or files.

Example:
  tools/lab/finish_weights.py --weights chosen.safetensors --store model.safetensors \\
      --config-file configs/Default/face_sources_wide.yaml --sources own=lists/own_train.csv \\
      --validation own=lists/own_val.csv --max-blockiness 1.6 --rights "For research." \\
      --trained-on "classical blends" --not-trained-on "audio" --card docs/model_card.md
  tools/lab/finish_weights.py --weights model.safetensors --store shipped.safetensors \\
      --error-rates measured/error_rates.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from benchmark_sources import named
from tqdm import tqdm

EXIT_ARGUMENTS = 2
FACES = 400  # drawn from each source
SHARE = 0.01  # of the faces of each source of validation, called unfamiliar at most
SHRINKAGE = 0.02  # of the covariance towards its diagonal: descriptors are nearly collinear


@dataclass(frozen=True)
class Window:
    """A face's window in its picture, and its descriptor."""

    source: str
    descriptor: np.ndarray


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="model file")
    parser.add_argument("--store", required=True, metavar="FILE", help="to write")
    parser.add_argument("--config-file", metavar="FILE", help="of the training")
    parser.add_argument("--sources", nargs="+", default=[], metavar="NAME=ENTRY")
    parser.add_argument("--validation", nargs="+", default=[], metavar="NAME=ENTRY")
    parser.add_argument(
        "--faces", type=int, default=FACES, metavar="N", help="of each source (400)"
    )
    parser.add_argument("--share", type=float, default=SHARE, metavar="SHARE", help="(0.01)")
    parser.add_argument("--max-blockiness", type=float, default=0.0, metavar="X", help="0: off")
    parser.add_argument("--trained-on", nargs="+", default=[], metavar="KIND")
    parser.add_argument("--not-trained-on", nargs="*", default=[], metavar="KIND")
    parser.add_argument("--rights", default="", metavar="SENTENCE")
    parser.add_argument("--card", default="", metavar="FILE or ADDRESS")
    parser.add_argument("--error-rates", nargs="+", default=[], metavar="FILE")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        _run(options)
    except (OSError, KeyError, ValueError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"finish_weights.py: {message}", file=sys.stderr)
        return EXIT_ARGUMENTS
    return 0


def _run(options: argparse.Namespace) -> None:
    from comics.evaluation.calibration import store_metadata
    from comics.inference.doubt import FAMILIARITY_KEY
    from comics.inference.knowledge import KNOWLEDGE_KEY, Knowledge
    from comics.modeling.weights import read_weights

    needed = ("config_file", "sources", "validation", "trained_on", "rights")
    absent = [f"--{n.replace('_', '-')}" for n in needed if not getattr(options, n)]
    alone = len(absent) == len(needed) and bool(options.error_rates)
    if absent and not alone:
        raise ValueError(f"{', '.join(absent)} belong to what is written; or give --error-rates")
    file = read_weights(options.weights)
    metadata: dict[str, str] = {}
    thresholds: dict[str, float] = {}
    if alone:
        knowledge = Knowledge.from_metadata(file.metadata, options.weights)
        if knowledge is None:
            raise ValueError(f"{options.weights} does not say what it was trained on: name it too")
    else:
        metadata[FAMILIARITY_KEY] = _familiarity(options).to_text()
        thresholds["UNCLEAR.MAX_BLOCKINESS"] = options.max_blockiness
        knowledge = Knowledge(
            tuple(options.trained_on), tuple(options.not_trained_on), options.rights, options.card
        )
    knowledge = with_rates(knowledge, options.error_rates, file.sha256)
    metadata[KNOWLEDGE_KEY] = knowledge.to_text()
    store_metadata(options.weights, options.store, metadata, thresholds)
    print(knowledge.sentence())
    for rate in knowledge.error_rates:
        print(rate.sentence())


def with_rates(knowledge, paths: Sequence[str], weights_sha256: str):
    """What is known of a model, with the error rates of tables in the place of those it has.

    Raises:
        FileNotFoundError, ValueError: as ``read_rates``, or if there are too many of them.
    """
    from comics.evaluation.error_rates import read_rates
    from comics.inference.knowledge import MAX_ERROR_RATES

    if not paths:
        return knowledge
    rates = tuple(rate for path in paths for rate in read_rates(path, weights_sha256))
    if not 0 < len(rates) <= MAX_ERROR_RATES:
        raise ValueError(f"{len(rates)} error rates; a model file holds 1 to {MAX_ERROR_RATES}")
    return replace(knowledge, error_rates=rates)


def _familiarity(options: argparse.Namespace):
    """``Familiarity`` of the training's pictures; its figures are printed."""
    from comics.config import load_config
    from comics.data.faces.degradations import Degradation

    degrade = Degradation.from_config(load_config(options.config_file))
    trained = _windows(options.sources, options.faces, degrade)
    checked = _windows(options.validation, options.faces, None)
    familiarity = fit_familiarity(trained, checked, options.share)
    for name in dict.fromkeys(window.source for window in checked):
        distances = [familiarity.distance(w.descriptor) for w in checked if w.source == name]
        middle, far = np.median(distances), np.mean(np.array(distances) > familiarity.limit)
        print(f"{name}: {len(distances)} faces, median distance {middle:.2f}, unfamiliar {far:.1%}")
    print(f"limit {familiarity.limit:.3f}")
    return familiarity


def fit_familiarity(trained: Sequence[Window], checked: Sequence[Window], share: float):
    """The Gaussian of ``trained``; ``share`` of each of ``checked`` is past its limit at most.

    Returns:
        ``comics.inference.doubt.Familiarity``.
    """
    from comics.inference.doubt import Familiarity

    values = np.stack([window.descriptor for window in trained])
    covariance = np.cov(values, rowvar=False)
    covariance += SHRINKAGE * np.diag(np.diag(covariance)) + 1e-6 * np.eye(len(covariance))
    familiarity = Familiarity(values.mean(0), np.linalg.inv(covariance), np.inf)
    limits = []
    for name in dict.fromkeys(window.source for window in checked):
        own = [familiarity.distance(w.descriptor) for w in checked if w.source == name]
        limits.append(np.quantile(own, 1 - share, method="higher"))
    return Familiarity(familiarity.mean, familiarity.precision, round(float(max(limits)), 4))


def _windows(texts: Sequence[str], count: int, degrade) -> list[Window]:
    """Windows of faces drawn from each source, always the same ones; each degraded one besides."""
    from comics.config import get_cfg
    from comics.data.faces.loader import load_faces
    from comics.data.images import read_image
    from comics.inference.doubt import face_window
    from comics.ops.picture_statistics import describe_picture

    found = []
    for text in texts:
        name, entry = named(text)
        manifest = load_faces(get_cfg(), entry)
        rng = np.random.default_rng(0)
        for index in tqdm(rng.permutation(len(manifest))[:count].tolist(), desc=name, unit="face"):
            row = manifest[index]
            picture = read_image(row.path)
            window = picture if row.box is None else face_window(picture, list(row.box))
            found.append(Window(name, describe_picture(window)))
            if degrade is not None:
                found.append(Window(name, describe_picture(degrade(window, rng))))
    return found


if __name__ == "__main__":
    sys.exit(main())
