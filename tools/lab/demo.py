#!/usr/bin/env python
"""A trained model at work, in minutes: forged photos, a clip, verdicts beside the truth, one page.

It begins with a photo of three astronauts (NASA, public domain), and the same photo forged in
several ways. Then photos of real people that the model was not trained on are forged, so that the
truth is known; the model that comes with the package looks at them, at a short clip of them, and at
more pictures. Where there are no photos, scenes are drawn. The page is OUTPUT/index.html.

Each stage is a command that you can run yourself; the demo prints it before it runs it. A stage
whose result is there already is not done again, so an interrupted demo continues by the same
command. To train a model in the same way: tools/lab/train_demo.py.

Examples:
  tools/lab/demo.py                      photos of ../shared/data where that exists, else drawn
  tools/lab/demo.py --photos FOLDER      a folder with annotations.json (COCO, real faces)
  tools/lab/demo.py --photos none        drawn scenes
  tools/lab/demo.py --weights FILE       another model
Exit code: 0 done; 2 unusable arguments or input; else that of the stage that failed.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
SHARED = TOOLS.parent.parent / "shared"  # photos and pictures beside the checkout
ANNOTATIONS = "annotations.json"
PHOTO = Path(__file__).resolve().parent / "demo_photo" / "pilots_3faces.jpg"
PHOTO_SIZE = (471, 600)  # height, width
PHOTO_FACES = ((125, 164, 49, 64), (265, 78, 48, 62), (410, 171, 48, 63))  # x, y, width, height
VARIANTS = 5  # of it, forged
HELD_OUT = "test_dev"  # the split of make_dataset.py that no model here is trained on
LONG_SIDE = 1024  # pixels, at most, of a forged photo
SEVERAL = 2  # faces: photos with as many are taken first
SHOWN_PICTURES = 12  # of the forged ones, on the page
FEW_FACES = 500  # with fewer, a share is off by some points
CLIP_PICTURES, CLIP_FRAMES, CLIP_FPS = 4, 16, 12
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
EXIT_ARGUMENTS = 2
EXIT_PARTIAL = 3  # a tool's "done, but some inputs were left out"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="FOLDER")
    parser.add_argument(
        "--photos",
        type=_folder,
        default=_where_it_exists(SHARED / "data"),
        metavar="FOLDER",
        help="real photos to forge; none: draw scenes (default: ../shared/data where it exists)",
    )
    parser.add_argument(
        "--pictures",
        type=_folder,
        default=_where_it_exists(SHARED / "samples"),
        metavar="FOLDER",
        help="more pictures to look at; none: no more (default: ../shared/samples where it exists)",
    )
    parser.add_argument("--weights", metavar="FILE", help="model file (default: the package's)")
    parser.add_argument("--images", type=int, default=24, metavar="N", help="to forge (default 24)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = build_parser().parse_args(arguments)
    # After the arguments are known to be sound: these imports take seconds
    from comics.inference.default_weights import default_weights

    started = time.monotonic()
    forged = options.output / "forged"
    try:
        weights = default_weights(options.weights)
        if not weights.is_file():
            raise FileNotFoundError(f"there is no model file {weights}")
        more = [] if options.pictures is None else pictures_in(options.pictures)
        forge(options, forged)  # first: here is seen whether the photos can be used
        forge_photo(options)
    except (OSError, ValueError) as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return EXIT_ARGUMENTS
    clip = make_clip(options.output / "clip.mp4", clip_pictures(forged))
    astronauts = options.output / "astronauts" / "images" / HELD_OUT
    infer(options.output, weights, [PHOTO, astronauts, forged / "images" / HELD_OUT, *more, clip])
    page = write_demo_page(options, forged, more, clip)
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Open {page}")
    return 0


def command(script: str, *arguments: object) -> None:
    """Print a tool's command line and run it; stop the demo if it fails."""
    words = [sys.executable, str(TOOLS / script), *map(str, arguments)]
    print(f"\n$ {shlex.join(['python', f'tools/{script}', *map(str, arguments)])}", flush=True)
    code = subprocess.run(words, check=False).returncode
    if code not in (0, EXIT_PARTIAL):
        raise SystemExit(code)


def forge_photo(options: argparse.Namespace) -> None:
    """The photo of the astronauts, forged in several ways: OUTPUT/astronauts."""
    from comics.files import write_bytes, write_text

    copies = options.output / "astronauts_unforged"
    height, width = PHOTO_SIZE
    content: dict[str, list] = {
        "images": [], "annotations": [], "categories": [{"id": 0, "name": "Real"}],
    }  # fmt: skip
    for number in range(1, VARIANTS + 1):
        name = f"{number}.jpg"
        write_bytes(copies / name, PHOTO.read_bytes())
        content["images"].append(
            {"id": number, "file_name": name, "height": height, "width": width}
        )
        content["annotations"] += [
            {"id": 10 * number + place, "image_id": number, "category_id": 0, "bbox": list(box),
             "iscrowd": 0}
            for place, box in enumerate(PHOTO_FACES)
        ]  # fmt: skip
    write_text(copies / ANNOTATIONS, json.dumps(content))
    command(
        "make_dataset.py", "--output", options.output / "astronauts", "--seed", options.seed,
        "--train", 0, "--val", 0, "--test-challenge", 0, "--source", copies, "--ratio", 0, 0, 1, 0,
    )  # fmt: skip


def forge(options: argparse.Namespace, forged: Path) -> None:
    """Photos, or scenes, of which about half of the faces are forged; resumable."""
    if options.photos is None:
        source = ["--source", "synthetic", f"--{HELD_OUT.replace('_', '-')}", options.images]
    else:
        originals = options.output / "originals"
        copy_held_out(options.photos, originals, options.images, options.seed)
        # All of them are held out: the shares are of train, val, test_dev, test_challenge
        source = ["--source", originals, "--ratio", 0, 0, 1, 0, "--size", LONG_SIDE]
    command(
        "make_dataset.py", "--output", forged, "--seed", options.seed,
        "--train", 0, "--val", 0, "--test-challenge", 0, *source,
    )  # fmt: skip


def copy_held_out(photos: Path, originals: Path, count: int, seed: int) -> None:
    """Copy photos of the held-out split, and what is annotated in them: a set of their own.

    Those with several faces come first: in the order of the hash, which fixes the split, pictures
    of one person each would.

    Raises:
        FileNotFoundError: if there is no annotation file, or a photo that it names is absent.
        ValueError: if the file is no such COCO file, or no photo is held out.
    """
    from comics.data.generate_sources import PhotoSource
    from comics.files import write_bytes

    if not (photos / ANNOTATIONS).is_file():
        raise FileNotFoundError(f"--photos {photos}: there is no {ANNOTATIONS} in it")
    source = PhotoSource(photos)
    names = sorted(name for name, split in source.splits.items() if split == HELD_OUT)
    if not names:
        raise ValueError(
            f"--photos {photos}: of its {len(source.photos)} photos none falls into the tenth that "
            "is held out from training; more photos are needed"
        )
    random.Random(seed).shuffle(names)
    names.sort(key=lambda name: -min(SEVERAL, len(_faces(source.faces[name]))))
    content = {"images": [], "annotations": []}
    originals.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names[:count], 1):
        copy = f"{number:06d}{Path(name).suffix}"
        shutil.copyfile(photos / name, originals / copy)
        content["images"].append(source.photos[name] | {"file_name": copy, "original": name})
        content["annotations"] += source.faces[name]
    write_bytes(originals / ANNOTATIONS, json.dumps(content).encode("utf-8"))


def clip_pictures(forged: Path) -> list[Path]:
    """The largest landscape pictures: a clip's are cut to the smallest of them."""
    images = json.loads((forged / f"{HELD_OUT}.json").read_text(encoding="utf-8"))["images"]
    images.sort(key=lambda i: (i["width"] < i["height"], -i["width"] * i["height"], i["id"]))
    return [forged / image["file_name"] for image in images[:CLIP_PICTURES]]


def make_clip(clip: Path, pictures: Sequence[Path]) -> Path:
    """A short video: a camera that moves over the pictures."""
    from comics.data.images import read_image
    from comics.data.video import pan, write_clip

    if clip.is_file():
        print(f"\n{clip} is there already")
    else:
        # Half a clip, of a demo that was interrupted, must not pass for one
        half = clip.with_name(f"half-{clip.name}")
        frames = pan([read_image(path) for path in pictures], CLIP_FRAMES)
        write_clip(half, frames, fps=CLIP_FPS, crf=18)
        half.replace(clip)
    return clip


def infer(output: Path, weights: Path, inputs: Sequence[Path]) -> None:
    """Annotated pictures and video, results.json and report.html; resumable."""
    command("infer.py", "--weights", weights, "--output", output / "inference", *inputs)


def pictures_in(folder: Path) -> list[Path]:
    """Pictures directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)


def write_demo_page(
    options: argparse.Namespace, forged: Path, more: Sequence[Path], clip: Path
) -> Path:
    """Pictures with verdicts and the truth, figures, and links to everything else."""
    from comics.data.images import read_image
    from comics.inference.files import display_name
    from comics.pages.page import GalleryPicture, write_page

    truth = _truth(forged)
    results = json.loads((options.output / "inference/results.json").read_text(encoding="utf-8"))
    astronauts = options.output / "astronauts"
    notes = {PHOTO: "in truth nothing is forged: a photo by NASA, in the public domain"}
    for folder in (astronauts, forged):
        notes |= true_labels(folder, _truth(folder))
    outputs = {
        file["file_name"]: f"inference/{file['output']}"
        for file in results["files"]
        if file.get("output")
    }
    known = [forged / image["file_name"] for image in truth["images"]]
    cards = []
    first = [PHOTO, *(astronauts / image["file_name"] for image in _truth(astronauts)["images"])]
    for path in [*first, *known[:SHOWN_PICTURES], *more]:
        key = display_name(path)
        if key in outputs:  # else it could not be read, which the report says
            image = read_image(path)
            faces = verdicts_of(results, key, image.shape[:2])
            cards.append(GalleryPicture(path.name, image, faces, outputs[key], notes.get(path)))
    links = {"Report of all files: sort, filter, move the threshold": "inference/report.html"}
    if display_name(clip) in outputs:
        links["A clip of the forged pictures, annotated"] = outputs[display_name(clip)]
    page = options.output / "index.html"
    write_page(
        page,
        "comics: which faces are forged?",
        cards,
        tables=figures(truth, results, {display_name(path): path.name for path in known}),
        introduction=introduce(options, len(known), len(more)),
        provenance=results["provenance"],
        links=links,
        decimals=1,
    )
    return page


def introduce(options: argparse.Namespace, count: int, more: int) -> str:
    """What the page shows, in words."""
    what = (
        f"Of {count} photos held out from training, those of several people first, the demo has "
        "forged about half of the faces"
        if options.photos
        else f"The demo has drawn {count} scenes and forged about half of the faces"
    )
    text = (
        f"First a photo of three astronauts, then the same one forged in {VARIANTS} ways. {what}. "
        "The boxes are what the model says; below each picture is what is true."
    )
    if more:
        text += f" Of the last {more} pictures the demo knows nothing."
    if not options.photos:
        text += (
            " The model was trained on real photos: drawn people are not what it is for, and what "
            "it says of them tells nothing about its use. With photos of real people: "
            "tools/lab/demo.py --photos FOLDER."
        )
    return text


def verdicts_of(results: dict, key: str, size: tuple[int, int]):
    """``Faces`` of one picture of a run, from its results."""
    import torch

    from comics.ops.boxes import xywh_to_xyxy
    from comics.ops.masks import rle_to_bitmap
    from comics.structures import Faces

    entries = [entry for entry in results["results"] if entry["file_name"] == key]
    if not entries:
        return Faces.empty(size, with_masks=False)
    masks = [rle_to_bitmap(e["segmentation"]) for e in entries if "segmentation" in e]
    return Faces(
        boxes=xywh_to_xyxy(torch.tensor([entry["bbox"] for entry in entries])),
        image_size=size,
        labels=torch.tensor([entry["category_id"] for entry in entries]),
        scores=torch.tensor([entry["score"] for entry in entries]),
        masks=torch.stack(masks) if len(masks) == len(entries) else None,
        fake_probability=torch.tensor([entry["fake_probability"] for entry in entries]),
    )


def _truth(folder: Path) -> dict:
    return json.loads((folder / f"{HELD_OUT}.json").read_text(encoding="utf-8"))


def true_labels(folder: Path, truth: dict) -> dict[Path, str]:
    """Path of an image -> what is true of it, in words; of a set in ``folder``."""
    faces: dict[int, list[int]] = {image["id"]: [] for image in truth["images"]}
    for face in _faces(truth["annotations"]):
        faces[face["image_id"]].append(face["category_id"])
    return {
        folder / image["file_name"]: (
            f"in truth {len(faces[image['id']])} faces, {sum(faces[image['id']])} forged"
        )
        for image in truth["images"]
    }


def figures(truth: dict, results: dict, known: dict[str, str]) -> dict[str, list[dict]]:
    """Caption -> rows: how the verdicts fit the truth.

    Args:
        truth: content of the COCO file.
        results: content of results.json.
        known: name of a file in the results -> name of its image.
    """
    import numpy as np

    from comics.evaluation import evaluate
    from comics.evaluation.classification import auc
    from comics.evaluation.faces import confusion, face_verdicts

    ids = {Path(image["file_name"]).name: image["id"] for image in truth["images"]}
    entries = [
        entry | {"image_id": ids[known[entry["file_name"]]]}
        for entry in results["results"]
        if entry["file_name"] in known
    ]
    verdicts = face_verdicts(evaluate(truth, entries, ("bbox",)), "bbox")
    provenance = results["provenance"]
    table, alarms = confusion(verdicts, provenance["score_threshold"], provenance["fake_threshold"])
    found = ~np.isnan(verdicts.fake_probability)
    area = auc(verdicts.labels[found], verdicts.fake_probability[found])
    (_, real_called_fake, real_missed), (_, fake_called_fake, fake_missed) = table.tolist()
    reals, fakes = table.sum(axis=1).tolist()
    faces = reals + fakes
    hits = faces - real_missed - fake_missed
    caption = f"{len(ids)} pictures with {faces} faces, {fakes} of them forged"
    if faces < FEW_FACES:
        caption += "; so few that other pictures would give figures that differ by several points"
    return {
        caption: [
            _row("Faces found", f"{hits} of {faces}", _share(hits, faces)),
            _row("Boxes where there is no face", str(alarms), None),
            _row(
                "Forged faces called forged",
                f"{fake_called_fake} of {fakes}",
                _share(fake_called_fake, fakes),
            ),
            _row(
                "Real faces called forged",
                f"{real_called_fake} of {reals}",
                _share(real_called_fake, reals),
            ),
            _row("AUC of P(fake), 50 is guessing", f"of {hits} found", 100 * area),
        ]
    }


def _row(what: str, count: str, percent: float | None) -> dict[str, object]:
    return {"What": what, "Faces": count, "x100": percent}


def _share(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _faces(annotations: Sequence[dict]) -> list[dict]:
    """Annotations that are no ignore regions."""
    return [annotation for annotation in annotations if not annotation.get("iscrowd")]


def _folder(text: str) -> Path | None:
    return None if text == "none" else Path(text)


def _where_it_exists(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
