"""What a multi-face set holds, counted from its annotation files: the facts of its card.

Counts say what a user cannot see in figures: how many photos show real and forged faces side by
side, which donors and kinds of donors a test has that training lacks, which faces are too small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comics.data.json_files import read_json
from comics.files import file_sha256
from comics.structures import FAKE, REAL

FINEST_STRIDE = 8  # pixels: a face below it may have no cell of its own on p3
MIN_MIXED = 0.5  # share of photos with both kinds: below it the set is not what it says


def split_facts(path: Path) -> dict[str, Any]:
    """Counts of one annotation file of ``comics.data.generate`` or ``challenge_sets``.

    Raises:
        ValueError, OSError: if it cannot be read.
    """
    content = read_json(path)
    faces = [face for face in content["annotations"] if not face["iscrowd"]]
    labels: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
    for face in faces:
        labels[face["image_id"]].add(face["category_id"])
    forged = [face for face in faces if face["category_id"] == FAKE]
    sides = [min(face["bbox"][2:]) for face in faces]
    steps = [
        step["name"]
        for image in content["images"]
        for step in image.get("corruption", {}).get("steps", [])
    ]
    levels = Counter(
        str(image["corruption"]["level"]) for image in content["images"] if "corruption" in image
    )
    return {
        "sha256": file_sha256(path),
        "photos": len(labels),
        "faces": len(faces),
        "real": sum(face["category_id"] == REAL for face in faces),
        "forged": len(forged),
        "photos_with_both": sum(found == {REAL, FAKE} for found in labels.values()),
        "photos_all_forged": sum(found == {FAKE} for found in labels.values()),
        "photos_all_real": sum(found == {REAL} for found in labels.values()),
        "photos_without_faces": sum(not found for found in labels.values()),
        "ignored_regions": sum(face["iscrowd"] for face in content["annotations"]) // 2,
        "faces_under_stride": sum(side < FINEST_STRIDE for side in sides),
        "side_quartiles": _quartiles(sides),
        "methods": dict(Counter(face["method"] for face in forged).most_common()),
        "donor_kinds": dict(
            Counter(
                face["forgery"]["donor_kind"] for face in forged if "donor_kind" in face["forgery"]
            ).most_common()
        ),
        "donors": sorted({f["forgery"]["donor"] for f in forged if "donor" in f["forgery"]}),
        "levels": dict(sorted(levels.items())),
        "corruptions": dict(Counter(steps).most_common()),
    }


def warnings(splits: Mapping[str, Mapping[str, Any]], training: Sequence[str]) -> list[str]:
    """What a user of the set must know, in sentences.

    Args:
        splits: name -> ``split_facts``.
        training: names of those that models may see.
    """
    found = [
        "Sex, age and skin of donors and photographed people are not annotated: whether donors are "
        "of one sex or age only cannot be told from these files.",
        "People are told apart only where the photos' annotations name an identity; all other "
        "photos are split by file, so a person who is in several of them may be in several splits.",
    ]
    seen = {donor for name in training if name in splits for donor in splits[name]["donors"]}
    for name, facts in splits.items():
        found += _of_split(name, facts)
        shared = seen & set(facts["donors"])
        if name not in training and shared:
            found.append(f"{name}: {len(shared)} of its donors are in training too.")
    return found


def _of_split(name: str, facts: Mapping[str, Any]) -> list[str]:
    found = []
    photos = facts["photos"]
    if not photos:
        return [f"{name}: there is no photo in it."]
    for label, other in (("real", "forged"), ("forged", "real")):
        if not facts[label]:
            found.append(f"{name}: every face is {other}; no figure tells classes apart.")
    if facts["photos_with_both"] < MIN_MIXED * photos:
        found.append(f"{name}: {facts['photos_with_both']} of {photos} photos show both kinds.")
    counts = {
        "photos_all_forged": "photos in which all faces are forged",
        "photos_all_real": "photos in which none is",
        "photos_without_faces": "photos without a face",
        "faces_under_stride": f"faces under {FINEST_STRIDE} pixels, the finest stride",
    }
    several = [f"{facts[key]} {text}" for key, text in counts.items() if facts[key]]
    if several:
        found.append(f"{name}: {', '.join(several)}.")
    return found


def _quartiles(values: Sequence[float]) -> list[float]:
    """Smallest, three quartiles, largest; nothing of no value."""
    if not values:
        return []
    ordered = sorted(values)
    last = len(ordered) - 1
    return [round(ordered[round(last * share)], 1) for share in (0, 0.25, 0.5, 0.75, 1)]
