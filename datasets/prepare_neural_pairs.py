"""Pairs of real face crops and of what an image network makes of them, with their manifest."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from comics.data.faces.manifest import split_entry
from comics.data.faces.manifest_files import read_manifest, write_manifest
from comics.data.faces.neural_pairs import PairMaker, PairSettings, choose_faces
from comics.data.forgery.networks import FaceNetwork
from comics.data.jobs import claim_folder, run_jobs

EXIT_BAD_ARGUMENTS, EXIT_SKIPPED = 2, 3
BATCH = 8  # faces of one job: they are drawn together where their sizes agree
WRITE_EVERY = 200  # rows; the manifest of an unfinished set can be used
MANIFEST = "faces.csv"
CACHE = ".network"  # folder of the network's results, below the output

EPILOG = """
example, with the autoencoder of a latent diffusion model:
  python datasets/prepare_neural_pairs.py faces.csv --network encoder.onnx decoder.onnx \\
    --output neural --train 1500 --val 300 --test 300

faces.csv is a manifest of face crops or of frames with boxes; its real rows are used, chosen at
random within each split. Conditions are understood: faces.csv@method=real,compression=c23.
A run that was interrupted continues when the same command is given again.
exit codes: 0 done; 2 wrong arguments; 3 done, but faces that could not be used were skipped.
"""


def build_parser() -> argparse.ArgumentParser:
    """Every option of the preparer, with what it is for."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = PairSettings()
    parser.add_argument("manifest", help="of the faces: faces.csv, or faces.csv@column=value")
    parser.add_argument(
        "--network", nargs="+", required=True, type=Path, metavar="ONNX",
        help="one network from image to image, or an encoder and a decoder",
    )  # fmt: skip
    parser.add_argument(
        "--network-range", nargs=2, type=float, default=(0.0, 1.0), metavar=("BLACK", "WHITE"),
        help="values of black and white in the network's images (0 1)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="folder to write the set to")
    for split in ("train", "val", "test"):
        parser.add_argument(
            f"--{split}", type=int, default=0, metavar="N", help=f"pairs of {split}"
        )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument(
        "--sides", nargs=2, type=int, default=defaults.sides, metavar=("LOW", "HIGH"),
        help="of the crops, pixels, multiples of 8 (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--margin", type=float, default=defaults.margin,
        help="around a box, as a share of its longer side (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--min-window", type=int, default=defaults.min_window,
        help="smaller faces, pixels with their margin, are left out (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--whole-share", type=float, default=defaults.whole_share,
        help="of the pairs drawn as a whole; of the others the face alone (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--method", default=defaults.method, help="name of the forgery (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the preparer; returns the exit code."""
    options = build_parser().parse_args(argv)
    try:
        faults = _prepare(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"prepare_neural_pairs: {error}", file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    for fault in faults:
        print(f"skipped {fault}", file=sys.stderr)
    return EXIT_SKIPPED if faults else 0


def _prepare(options: argparse.Namespace) -> list[str]:
    settings = PairSettings(
        seed=options.seed,
        sides=tuple(options.sides),
        margin=options.margin,
        min_window=options.min_window,
        whole_share=options.whole_share,
        method=options.method,
    )
    named = split_entry(options.manifest)
    if named is None:
        raise ValueError(
            f"{options.manifest!r} is no manifest, faces.csv or faces.csv@column=value"
        )
    manifest = read_manifest(named[0]).select(named[1])
    counts = {split: getattr(options, split) for split in ("train", "val", "test")}
    if min(counts.values()) < 0 or not sum(counts.values()):
        raise ValueError("--train, --val or --test must ask for pairs")
    jobs = choose_faces(manifest, counts, settings.seed)
    network = FaceNetwork(
        options.network,
        value_range=tuple(options.network_range),
        cache=options.output / CACHE,
    )
    claim_folder(
        options.output,
        {"manifest": options.manifest, "network": network.arguments, "counts": counts}
        | asdict(settings),
    )
    # Splits mixed, so that what is there of an unfinished set is a fair part of all
    jobs = sorted(jobs, key=lambda job: job.name.partition("/")[2])
    batches = [jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)]
    named_batches = [(batch[0].name, batch) for batch in batches]
    maker = PairMaker(options.output, network, settings)
    rows, faults, written = [], [], 0
    for result in run_jobs(
        options.output, maker, named_batches, workers=options.workers, progress="faces"
    ):
        rows += result.value or []
        faults += result.faults
        if len(rows) - written >= WRITE_EVERY:
            written = write_manifest(options.output / MANIFEST, rows)
    count = write_manifest(options.output / MANIFEST, rows)
    print(f"{options.output / MANIFEST}: {count // 2} pairs, {len(faults)} faces skipped")
    return faults


if __name__ == "__main__":
    sys.exit(main())
