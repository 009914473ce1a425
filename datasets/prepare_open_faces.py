"""An open multi-face benchmark, made as OpenForensics was: generated faces in photos of people.

Written are train.json, val.json and test_dev.json (COCO, categories 0 Real and 1 Fake, exact masks)
and, from the photos of test_dev, test_challenge.json (corrupted by the published four levels) and
its subsets test_challenge_named.json (colour, noise, blocks), test_challenge_degraded.json (blur,
compression, pooling) and test_challenge_weather.json; card.md and card.json say what is in them.

Most photos show several people, real and forged ones side by side. A face is replaced by a
generated one that fits in light, colour and pose; one that none fits is self-blended, so that fit
does not tell the label. Photos are split by identity or file, donors by their manifest or file.
With --network, faces of a second and a third family (donors redrawn by an autoencoder, and mixtures
of two donors' latents) are in the photos of the tests alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from comics.data.challenge_levels import SUBSETS
from comics.data.challenge_sets import corrupt_split
from comics.data.faces.manifest import split_entry
from comics.data.faces.manifest_files import read_manifest
from comics.data.forgery.donors import (
    DonorFile,
    Fit,
    GeneratedDonors,
    PoseRegression,
    donor_files,
    fit_pose,
    listed_donors,
)
from comics.data.forgery.networks import FaceNetwork
from comics.data.generate import (
    DONOR_SPLITS,
    TEST_SPLITS,
    Materials,
    Settings,
    generate_dataset,
)
from comics.data.generate_sources import SPLITS, PhotoSource
from comics.data.images import read_image
from comics.data.jobs import run_jobs
from comics.data.set_card import split_facts, warnings
from comics.evaluation.tables import markdown_table
from comics.files import write_bytes, write_text

EXIT_BAD_ARGUMENTS, EXIT_SKIPPED = 2, 3
RATIO = (0.66, 0.13, 0.21, 0.0)  # of the photos: train, val, test_dev; the challenge set is its
SIZE = 640  # pixels: most of a long side
FORGED_SHARE, MIXED = 0.5, 0.85
# Chosen by looking at 150 faces: profiles, heads turned aside, sunglasses and hands are seen at a
# glance
FIT = Fit(candidates=300, misfit=1.4, nose=0.06, shape=0.03, side=24, landmarks=True, patch=31.0)
LEAST_FITTING, MOST_UNFIT = 2, 0.34  # faces that donors may replace; share of the others
LONE_SHARE = 0.125  # of the photos show one face
POSE_FACES = 800  # of the photos, from which the pose of generated faces is learned
# Families that only the tests have, and the side of the pictures that the network works at
ROUND_TRIP, MIXTURE, NETWORK_SIDE = "redrawn by an autoencoder", "mixture of two latents", 160
GENERATED = "generated"  # kind of donors whose manifest says none
CHALLENGE = "test_challenge"

EPILOG = """
example:
  python datasets/prepare_open_faces.py --photos photos/annotations.json \\
    --donors "forged/manifest.csv@method=StyleGAN" --network encoder.onnx decoder.onnx \\
    --output datasets/open_faces --seed 0

The same photos, donors, options and seed make the same set. A run that was interrupted continues
when the same command is given again.
exit codes: 0 done; 2 wrong arguments; 3 done, but files that could not be used were skipped.
"""


def build_parser() -> argparse.ArgumentParser:
    """Every option of the preparer, with what it is for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, required=True, help="COCO file of real faces, with keypoints5"
    )
    parser.add_argument(
        "--donors", required=True, metavar="FOLDER",
        help="of generated faces, aligned as FFHQ's, or a manifest of them (faces.csv@method=NAME)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="folder to write the set to")
    parser.add_argument(
        "--network", nargs=2, type=Path, metavar=("ENCODER", "DECODER"),
        help="ONNX: an autoencoder, for families of donors that only the tests have",
    )  # fmt: skip
    parser.add_argument(
        "--unseen-donors", type=int, default=24, metavar="N", help="of each such family (24)"
    )
    parser.add_argument("--seed", type=int, default=0, help="one seed, one set (0)")
    parser.add_argument("--size", type=int, default=SIZE, help=f"most of a long side ({SIZE})")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="of the traces, see make-dataset (1)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only N photos, for a trial")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


@dataclass(frozen=True)
class Choice:
    """Which photos are used: those with several faces to forge, and some with one.

    Attributes:
        limit: at most so many; None for no limit.
    """

    limit: int | None = None

    def __call__(self, faces: Mapping[str, Sequence[dict]]) -> set[str]:
        """Names of the chosen, of the annotations of all; labels play no part."""
        several, lone = [], []
        for name in sorted(faces, key=_hash):
            own = [face for face in faces[name] if not face.get("iscrowd", 0)]
            fitting = sum(map(_can_be_replaced, own))
            if fitting >= LEAST_FITTING and len(own) - fitting <= MOST_UNFIT * len(own):
                several.append(name)
            elif len(own) == fitting == 1:
                lone.append(name)
        if self.limit is not None:
            several = several[: round(self.limit * (1 - LONE_SHARE))]
        return {*several, *lone[: round(len(several) * LONE_SHARE / (1 - LONE_SHARE))]}


def _can_be_replaced(face: Mapping) -> bool:
    box = np.asarray(face.get("bbox_uniform", face.get("bbox")), np.float64)
    points = np.asarray(face.get("keypoints5", ()), np.float64)
    if face.get("mask") == "worn" or points.shape != (5, 2) or not np.isfinite(points).all():
        return False
    large = box.shape == (4,) and float(np.sqrt(max(box[2] * box[3], 0.0))) >= FIT.side
    return bool(large) and FIT.faces_camera(points)


def _hash(name: str) -> bytes:
    # By another hash than the one that splits go by
    return hashlib.sha256(f"open faces {name}".encode("utf-8", "surrogateescape")).digest()


class Redrawer:
    """Makes one donor of a new family; its network is opened once."""

    def __init__(self, network: FaceNetwork) -> None:
        self.network = network

    def __call__(self, job: tuple[str, str, str]) -> tuple[str, list[str]]:
        """Draw (file, partner, result): the mixture of two pictures, or of one its round trip."""
        first, second, result = job
        picture = _square(first)
        if second:
            drawn = self.network.mix(picture[None], _square(second)[None], [0.5])[0]
        else:
            drawn = self.network.round_trip(picture[None])[0]
        done, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        if not done:
            raise ValueError(f"{result} could not be written")
        write_bytes(result, data.tobytes(), durable=False)
        return result, []


def _square(path: str) -> np.ndarray:
    size = (NETWORK_SIDE, NETWORK_SIDE)
    return cv2.resize(read_image(path), size, interpolation=cv2.INTER_AREA)


def unseen_families(
    donors: GeneratedDonors, network: FaceNetwork, output: Path, count: int, workers: int
) -> tuple[list[DonorFile], list[str]]:
    """Donors of two families that only the tests have, made of the tests' own; and faults."""
    jobs, files = [], []
    for kind, mixed in ((ROUND_TRIP, False), (MIXTURE, True)):
        folder = output / "donors" / kind.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        for file, partner in donors.partners(TEST_SPLITS[0])[:count]:
            result = folder / f"{file.path.stem}.png"
            second = str(partner.path) if mixed else ""
            jobs.append((f"{kind} {file.path.name}", (str(file.path), second, str(result))))
            files.append(DonorFile(result, TEST_SPLITS, kind))
    results = list(run_jobs(output, Redrawer(network), jobs, workers=workers))
    kept = [file for file, done in zip(files, results, strict=True) if done.value is not None]
    return kept, [fault for result in results for fault in result.faults]


def known_donors(entry: str) -> list[DonorFile]:
    """The donors of a folder, or of a manifest's rows.

    Raises:
        ValueError, OSError: if there is none, or it cannot be read.
    """
    named = split_entry(entry)
    if named is None:
        return [DonorFile(path, (), GENERATED) for path in donor_files(Path(entry))]
    listed = listed_donors(read_manifest(named[0]).select(named[1]), DONOR_SPLITS)
    return [DonorFile(file.path, file.splits, file.kind or GENERATED) for file in listed]


def all_donors(
    options: argparse.Namespace, pose: PoseRegression | None
) -> tuple[GeneratedDonors, list[str]]:
    """Every donor of the set, and what could not be used."""
    shares = dict(zip(SPLITS, RATIO, strict=True))
    known = known_donors(options.donors)
    donors, faults = GeneratedDonors(known, shares, pose, FIT), []
    if options.network:
        made, faults = unseen_families(
            donors,
            FaceNetwork(options.network, cache=None),
            options.output,
            options.unseen_donors,
            options.workers,
        )
        donors = GeneratedDonors([*known, *made], shares, pose, FIT)
    return donors, faults + [f"{path}: {reason}" for path, reason in donors.skipped]


def make_sets(options: argparse.Namespace) -> list[str]:
    """Write the set; returns what could not be used.

    Raises:
        ValueError, OSError: for arguments that make no set.
    """
    source = PhotoSource(options.photos, options.size, RATIO, Choice(options.limit))
    if not source.photos:
        raise ValueError(
            f"{options.photos}: no photo has {LEAST_FITTING} bare faces of {FIT.side:g} pixels "
            "that look into the camera, with keypoints5"
        )
    donors, faults = all_donors(options, fit_pose(source.known_poses(POSE_FACES)))
    settings = Settings(
        seed=options.seed,
        fake_share=FORGED_SHARE,
        methods=("generated_swap",),
        strength=options.strength,
        mixed=MIXED,
    )
    counts = {CHALLENGE: 0}  # its photos are those of test_dev
    report = generate_dataset(
        options.output,
        source,
        settings,
        counts,
        options.workers,
        not options.quiet,
        Materials(donors),
    )
    faults += [f"{photo}: {reason}" for photo, reason in report.skipped]
    for subset, tags in SUBSETS.items():
        name = CHALLENGE if not tags else f"{CHALLENGE}_{subset}"
        faults += corrupt_split(
            options.output, TEST_SPLITS[0], name, tags, options.seed, options.workers,
            not options.quiet,
        )  # fmt: skip
    _write_card(options, donors, faults)
    return faults


def _write_card(
    options: argparse.Namespace, donors: GeneratedDonors, faults: Sequence[str]
) -> None:
    names = [*SPLITS[:3], CHALLENGE, *(f"{CHALLENGE}_{name}" for name in list(SUBSETS)[1:])]
    facts = {name: split_facts(options.output / f"{name}.json") for name in names}
    told = warnings(facts, ("train", "val"))
    unseen = {kind for kind in donors.kinds(TEST_SPLITS[0]) if kind not in donors.kinds("train")}
    content = {
        "seed": options.seed,
        "strength": options.strength,
        "donors_available": {name: donors.kinds(name) for name in SPLITS[:3]},
        "kinds_of_donors_unseen_in_training": sorted(unseen),
        "warnings": told,
        "not_used": list(faults),
        "splits": facts,
    }
    write_text(options.output / "card.json", json.dumps(content, indent=1))
    rows = [
        [name, *(str(fact[key]) for key in ("photos", "faces", "real", "forged")),
         str(fact["photos_with_both"]), _counts(fact["methods"]), _counts(fact["donor_kinds"]),
         str(len(fact["donors"])), " / ".join(f"{side:g}" for side in fact["side_quartiles"])]
        for name, fact in facts.items()
    ]  # fmt: skip
    heading = ["file", "photos", "faces", "real", "forged", "photos with both", "forged by",
               "kinds of donors", "donors", "sides, px: least, quartiles, most"]  # fmt: skip
    command = ["datasets/prepare_open_faces.py", "--photos", options.photos.name, "--donors",
               Path(options.donors).name, "--seed", str(options.seed)]  # fmt: skip
    lines = [
        "# Open faces", "", "Generated faces in photos of people, made by "
        f"`{shlex.join(command)}`.", "", markdown_table(heading, rows), "",
        f"Kinds of donors that no training photo has: {', '.join(sorted(unseen)) or 'none'}.", "",
        "What to know:", "", *(f"- {text}" for text in told),
        f"- {len(faults)} files could not be used (card.json names them).", "",
        "Corruptions of the challenge sets, images of each level and steps of each kind:", "",
        *(f"- {name}: levels {_counts(fact['levels'])}; {_counts(fact['corruptions'])}"
          for name, fact in facts.items() if fact["levels"]),
    ]  # fmt: skip
    write_text(options.output / "card.md", "\n".join(lines) + "\n")


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in values.items()) or "–"


def main(words: Sequence[str] | None = None) -> int:
    """Run the preparer; returns the exit code."""
    options = build_parser().parse_args(words)
    try:
        faults = make_sets(options)
    except (ValueError, KeyError, OSError, ImportError) as error:
        print(f"prepare_open_faces.py: {error}", file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    for fault in faults:
        print(f"skipped {fault}", file=sys.stderr)
    print(f"{options.output}: {(options.output / 'card.md').name} says what is in it")
    return EXIT_SKIPPED if faults else 0


if __name__ == "__main__":
    sys.exit(main())
