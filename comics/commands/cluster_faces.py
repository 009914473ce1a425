"""``comics cluster-faces``: content clusters of a manifest's faces, for GuideSpace."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from comics.commands.stopping import stop

if TYPE_CHECKING:
    from comics.config import CfgNode
    from comics.modeling.faces.base import FaceMethod

DESCRIPTION = """\
Number the content clusters of a manifest's faces: the column that GuideSpace decouples by.

Every face goes through a frozen encoder, and k-means of the unit features gives its cluster
(docs/methods.md#guidespace-clusters). The encoder must never have seen forgeries, else clusters
follow these and there is no content to decouple: take that of --config-file with
MODEL.FACE.ENCODER_WEIGHTS, self-supervised or from ImageNet. Without weights it is random, which
still groups faces by colour and layout. A trained face method's (--weights) is used with a warning.
How much of the labels the clusters tell is printed, and warned of where it is much. Run it once,
before training; a GuideSpace without clusters trains without its push and pull losses.

Exit code: 0 done; 2 unusable arguments or manifest; 3 done, but pictures that could not be read
have no cluster (each is reported).

Examples:
  {prog} faces/manifest.csv --config-file configs/Face/GuideSpace/EN_B4.yaml \\
      MODEL.FACE.ENCODER_WEIGHTS weights/efficientnet_b4.safetensors
  {prog} faces/manifest.csv --config-file configs/Face/GuideSpace/R_50.yaml --clusters 100 \\
      --output faces/clustered.csv MODEL.FACE.ENCODER_WEIGHTS weights/resnet50_dino.safetensors
"""
EXIT_ARGUMENTS, EXIT_UNREADABLE = 2, 3


def add_cluster_faces_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION.replace("{prog}", parser.prog)
    parser.add_argument("manifest", help="CSV of faces; all of its rows are clustered together")
    parser.add_argument(
        "--output", metavar="FILE", help="beside the manifest (default: the manifest itself)"
    )
    parser.add_argument("--weights", metavar="FILE", help="a face method's .safetensors")
    parser.add_argument("--config-file", metavar="FILE", help="YAML, where there is no --weights")
    parser.add_argument(
        "--clusters", type=int, metavar="K", help="short for MODEL.FACE.GUIDE_SPACE.NUM_CLUSTERS K"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="configuration, last")


def load_encoder(options: argparse.Namespace) -> tuple[FaceMethod, CfgNode, str]:
    """The face method that holds the encoder, its configuration, and where its weights are from.

    Raises:
        OSError, KeyError, ValueError: for what cannot be loaded.
    """
    import torch

    from comics.config import load_config
    from comics.modeling.build import choose_device, load_model
    from comics.modeling.faces.base import FaceMethod
    from comics.modeling.faces.build import build_face_method

    overrides = [*options.overrides]
    if options.clusters is not None:
        overrides += ["MODEL.FACE.GUIDE_SPACE.NUM_CLUSTERS", str(options.clusters)]
    given = load_config(options.config_file, overrides)
    torch.manual_seed(given.SEED)  # of an encoder with random weights
    if not options.weights:
        source = given.MODEL.FACE.ENCODER_WEIGHTS
        fresh = build_face_method(given, load_weights=bool(source))
        return fresh.to(choose_device(given.MODEL.DEVICE)), given, source or "random weights"
    model, cfg, _ = load_model(options.weights, choose_device(given.MODEL.DEVICE))
    if not isinstance(model, FaceMethod):
        raise ValueError(f"{options.weights} holds a {type(model).__name__}, not a face method")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = given.SEED
    cfg.MODEL.FACE.GUIDE_SPACE.NUM_CLUSTERS = given.MODEL.FACE.GUIDE_SPACE.NUM_CLUSTERS
    return model, cfg, options.weights


def warn(options: argparse.Namespace, message: str) -> None:
    """One line on the error stream."""
    print(f"{options.program}: warning: {message}", file=sys.stderr)


def run_cluster_faces(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    # After the arguments are known to be sound: these imports take seconds
    from comics.data.faces.manifest_files import read_manifest, write_clusters
    from comics.engine.cluster_faces import LARGEST_AGREEMENT, cluster_faces, label_agreement
    from comics.modeling.faces.encoder import saw_forgeries

    try:
        model, cfg, source = load_encoder(options)
        device = next(model.parameters()).device
        print(f"encoder {type(model.encoder).__name__}: {source}")
        if options.weights or saw_forgeries(source):
            warn(options, f"{source} was trained on forgeries: clusters may follow these")
        numbers, skipped = cluster_faces(cfg, model, options.manifest, device)
        agreement = label_agreement(numbers, read_manifest(options.manifest).labels)
        output = options.output or options.manifest
        write_clusters(options.manifest, output, numbers)
    except (OSError, KeyError, ValueError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    for path in skipped:
        print(f"{options.program}: {path} cannot be read: no cluster", file=sys.stderr)
    print(f"{output}: {len(numbers)} faces, {len(set(numbers[numbers >= 0]))} clusters")
    print(f"they tell {agreement:.2f} of the labels (0 nothing beyond chance, 1 everything)")
    if agreement > LARGEST_AGREEMENT:
        warn(options, "these clusters are not of content alone: GuideSpace would unlearn forgery")
    return EXIT_UNREADABLE if skipped else 0
