"""Content clusters of a manifest's faces, which GuideSpace decouples forgery from.

docs/methods.md#guidespace-clusters.

Shape letters: N faces; C channels of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.preprocessing import normalize
from tqdm import tqdm

from comics.config import CfgNode
from comics.data.faces.loader import FaceTestLoader, build_face_test_loader
from comics.data.faces.needs import FaceNeeds
from comics.data.records import DatasetError
from comics.engine import distributed
from comics.engine.measure_faces import rows_of_batch
from comics.modeling.faces.base import FaceMethod

UNKNOWN_CLUSTER = -1
# From this share of what the labels are on, clusters are not of content alone (decision)
LARGEST_AGREEMENT = 0.2
INITIALISATIONS = 3  # k-means starts from this many draws and keeps the best


@torch.inference_mode()
def encode_faces(
    model: FaceMethod, loader: FaceTestLoader, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features of the frozen encoder, each of unit length.

    Args:
        model: a face method on ``device``; only its encoder is used, in evaluation mode.
        loader: the faces.
        device: where the model is.

    Returns:
        [N, C] float32 features, and [N] the row of the manifest of each; rows whose picture
        cannot be read are left out (``loader.skipped`` names them).
    """
    model.eval()
    features: list[np.ndarray] = []
    rows: list[int] = []
    for batch in tqdm(loader, desc="encode", unit="batch", disable=not distributed.is_main()):
        pooled = model.encoder.pool(model.feature_map(batch.images.to(device)))
        features.append(pooled.float().cpu().numpy())
        rows += rows_of_batch(loader.manifest, rows[-1] + 1 if rows else 0, batch)
    if not rows:
        raise DatasetError("none of the faces could be read")
    return normalize(np.concatenate(features)), np.array(rows)


def cluster_features(features: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """k-means of [N, C] features: the number of each one's cluster, [N] int64 in [0, clusters).

    Raises:
        ValueError: if there are fewer features than clusters.
    """
    if not 1 <= clusters <= len(features):
        raise ValueError(f"{clusters} clusters of {len(features)} faces: MODEL.FACE.GUIDE_SPACE."
                         "NUM_CLUSTERS must be from 1 to the number of faces")  # fmt: skip
    kmeans = MiniBatchKMeans(clusters, random_state=seed, n_init=INITIALISATIONS)
    return kmeans.fit_predict(features).astype(np.int64)


def cluster_faces(
    cfg: CfgNode, model: FaceMethod, entry: str, device: torch.device
) -> tuple[np.ndarray, Sequence[str]]:
    """The content cluster of every face of a manifest.

    Args:
        cfg: INPUT.FACE, DATALOADER, TEST.IMS_PER_BATCH, SEED and NUM_CLUSTERS are read.
        model: whose encoder is used.
        entry: the manifest's file, without conditions.
        device: of the model.

    Returns:
        [rows] int64, -1 for a picture that cannot be read; and the paths of these.
    """
    needs = FaceNeeds(views=(), masks=False, crop_size=model.crop_size)
    loader = build_face_test_loader(cfg, entry, needs=needs)
    features, rows = encode_faces(model, loader, device)
    numbers = np.full(len(loader.manifest), UNKNOWN_CLUSTER, np.int64)
    numbers[rows] = cluster_features(features, cfg.MODEL.FACE.GUIDE_SPACE.NUM_CLUSTERS, cfg.SEED)
    return numbers, sorted(loader.skipped)


def label_agreement(numbers: np.ndarray, labels: np.ndarray) -> float:
    """How much of a face's label its cluster tells: 0 nothing beyond chance, 1 everything.

    The mutual information of both, adjusted for chance, as a share of the labels' entropy (Vinh et
    al. 2010). Clusters of content must tell little: pushing faces of one cluster apart is to free
    features of content, not of forgery. It cannot tell clusters by forgery from a set whose
    forgeries show other people than its reals.

    Args:
        numbers: [N] int64, -1 unknown: left out.
        labels: [N].
    """
    known = numbers >= 0
    if len(np.unique(labels[known])) < 2:
        return 0.0
    value = adjusted_mutual_info_score(labels[known], numbers[known], average_method="min")
    return float(value)
