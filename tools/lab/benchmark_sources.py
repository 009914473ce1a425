#!/usr/bin/env python
"""Measure models source by source, and choose the one threshold that holds on all of them.

A source is NAME=ENTRY: a manifest ("dfdc=faces.csv@split=val,set=dfdc224") or a multi-face COCO
set. Its faces are cut out as `comics detect` cuts them: at the box that the manifest gives, else at
the box of the best face that the first model's detector finds in the picture, else the whole
picture (counted as not found). Each model's face part says P(fake), mirrored and fused with the
detector's as the model file states. Boxes are kept in OUTPUT/boxes.json and scores in
OUTPUT/scores_*.json; the same command goes on from there.

--conditions repeats every source: jpeg:75, resize:0.5, ... as tools/lab/benchmark_photos.py does;
side:48: the picture is scaled so that the longer side of the face's box is 48 pixels; scale:1.2:
the box is so much larger. Printed, and written to OUTPUT/sources.md and OUTPUT/sources.json: per
source and condition AUC, real faces called forged, forged faces called forged, unclear ones (by
P(fake) alone), with 95 % intervals over groups (clips, photos); --clips also takes the mean of the
faces of each group. OUTPUT/error_rates.json has what tools/lab/finish_weights.py puts into the
first model's file: of all sources together, by size of face and by quality; --called says in
reports what they are.

--choose fits the temperature of P(fake), every source and class counting alike, chooses
TEST.FAKE_THRESH so that at most --false-alarms of the real faces of every source under every
condition reach it, takes as unclear what lies below it, as far as --unclear of the faces of every
source under every condition go, and writes a model file with all of it to --store: only ever on
validation data.

Exit code: 0 done; 2 unusable arguments or files.

Examples:
  tools/lab/benchmark_sources.py --weights new.safetensors old.safetensors --output out \\
      --sources "dfdc=faces.csv@split=test,set=dfdc224" own=output/default/data/0/test_dev.json
  tools/lab/benchmark_sources.py --weights joined.safetensors --output out --choose \\
      --store new.safetensors --conditions jpeg:50 side:48 scale:0.85 \\
      --sources "dfdc=faces.csv@split=val,set=dfdc224"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

EXIT_ARGUMENTS = 2
FALSE_ALARMS, UNCLEAR = 0.05, 0.12
UNCLEAR_SHARES = (0.0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.2, 0.3)  # of the curve that is printed
LEAST_SCORE = 0.2  # of a face that a box is taken from
BATCH = 16  # pictures whose faces go through the face method together
OWN_CONDITIONS = ("clean", "side", "scale")


@dataclass(frozen=True)
class Face:
    """A face to measure: its picture, its box (None: to be found), and what is true of it."""

    source: str
    path: str
    box: tuple[float, float, float, float] | None
    label: int
    method: str
    group: str


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", nargs="+", required=True, metavar="FILE", help="model files")
    parser.add_argument("--sources", nargs="+", required=True, metavar="NAME=ENTRY")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--conditions", nargs="+", default=[], metavar="NAME:LEVEL")
    parser.add_argument("--limit", type=int, metavar="N", help="faces of a class, drawn")
    parser.add_argument("--min-side", type=int, default=24, metavar="PX", help="of boxes (24)")
    parser.add_argument("--detect-size", type=int, metavar="PX", help="short side, to find boxes")
    parser.add_argument("--called", metavar="TEXT", help="the sources, in reports (their names)")
    parser.add_argument("--clips", action="store_true", help="means over groups too")
    parser.add_argument("--choose", action="store_true", help="temperature and threshold")
    parser.add_argument("--store", type=Path, metavar="FILE", help="model file to write them to")
    parser.add_argument("--false-alarms", type=float, default=FALSE_ALARMS, metavar="SHARE")
    parser.add_argument("--unclear", type=float, default=UNCLEAR, metavar="SHARE")
    parser.add_argument("--fusion", choices=("mean_logit", "face", "detector", "max"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        if options.choose != bool(options.store) or (options.choose and len(options.weights) > 1):
            raise ValueError("--choose and --store belong together, for one model file")
        _run(options)
    except (OSError, KeyError, ValueError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"benchmark_sources.py: {message}", file=sys.stderr)
        return EXIT_ARGUMENTS
    return 0


def _run(options: argparse.Namespace) -> None:
    from comics.evaluation.source_figures import SourceRows
    from comics.inference.load import load_predictor

    conditions = [_condition(text) for text in ("clean", *options.conditions)]
    options.output.mkdir(parents=True, exist_ok=True)
    predictors = [load_predictor(path, options.device) for path in options.weights]
    for path, predictor in zip(options.weights, predictors, strict=True):
        if not predictor.looks_at_faces:
            raise ValueError(f"{path} has no face part: join it by tools/combine_weights.py")
        if options.fusion:
            predictor.model.fusion = options.fusion
    faces = [face for text in options.sources for face in _faces(text, options)]
    boxes = _boxes(faces, predictors[0], options)
    lines, content, rows_of_first = [], {}, None
    for path, predictor in zip(options.weights, predictors, strict=True):
        # A new temperature takes the place of one that the file may have
        temperature = 1.0 if options.choose else predictor.rule.temperature
        known = _scores(faces, boxes, predictor, conditions, path, options)
        rows = SourceRows.of(
            [_row(face, name, known, temperature) for name, _ in conditions for face in faces]
        )
        if options.choose:
            choose_and_store(rows, path, options)
            continue
        rows_of_first = rows if rows_of_first is None else rows_of_first
        text, figures = _table(rows, predictor, options.clips)
        lines += [f"{path}, threshold {predictor.rule.fake_threshold:.4f}", "", *text, ""]
        content[path] = figures
    if lines:
        _write_rates(faces, boxes, rows_of_first, predictors[0], conditions, options)
        print("\n".join(lines))
        (options.output / "sources.md").write_text("\n".join(lines), encoding="utf-8")
        (options.output / "sources.json").write_text(json.dumps(content, indent=1), "utf-8")


def _write_rates(faces, boxes, rows, predictor, conditions, options) -> None:
    """error_rates.json: how often the first model errs by size and quality of face.

    Args:
        faces, boxes: as measured; a face without a box is left out.
        rows: ``SourceRows``, one condition after the other, each in the order of ``faces``.
        predictor: of the first model.
        conditions: of all those measured; the project's own are no quality of a picture.
        options: ``called``, ``output``.
    """
    from comics.evaluation.error_rates import rates_by_size, write_rates

    found = [face.box or boxes.get(face.path, (None, 0.5))[0] for face in faces]
    sides = np.array([
        -1.0 if box is None else min(box[2] - box[0], box[3] - box[1]) for box in found
    ])  # fmt: skip
    called = options.called or ", ".join(dict.fromkeys(face.source for face in faces))
    forged = rows.fake_probability >= predictor.rule.fake_threshold + predictor.doubt_rule.above
    rates = []
    for number, (name, _) in enumerate(conditions):
        if name.partition(":")[0] in OWN_CONDITIONS[1:]:
            continue
        part = slice(number * len(faces), (number + 1) * len(faces))
        quality = "" if name == "clean" else name.replace(":", " ").replace("jpeg", "JPEG")
        rates += rates_by_size(rows.labels[part], forged[part], sides, called, quality)
    write_rates(options.output / "error_rates.json", rates, predictor.provenance["weights_sha256"])


def _condition(text: str):
    """(name, level, function) of a condition; the function takes and returns (picture, box)."""
    from comics.data.transforms import resize_image
    from comics.evaluation.robustness import Condition, condition_names

    name, _, level = text.partition(":")
    if text == "clean":
        return text, lambda image, box: (image, box)
    if name not in (*condition_names(), *OWN_CONDITIONS) or not level:
        known = ", ".join((*condition_names(), *OWN_CONDITIONS[1:]))
        raise ValueError(f"{text!r} is no NAME:LEVEL; names: {known}")
    number = float(level)
    if name == "scale":

        def scaled(image, box):
            x0, y0, x1, y1 = box
            dx, dy = (x1 - x0) * (number - 1) / 2, (y1 - y0) * (number - 1) / 2
            return image, (x0 - dx, y0 - dy, x1 + dx, y1 + dy)

        return text, scaled
    if name == "side":

        def resized(image, box):
            factor = number / max(box[2] - box[0], box[3] - box[1])
            if factor >= 1:
                return image, box
            size = tuple(max(1, round(length * factor)) for length in image.shape[:2])
            return resize_image(image, size), tuple(value * factor for value in box)

        return text, resized
    change = Condition(name, int(number) if number.is_integer() else number)
    return text, lambda image, box: (change(image), box)


def named(text: str, what: str = "NAME=ENTRY") -> tuple[str, str]:
    """Both parts of a word such as "dfdc=faces.csv"; ``what`` it should be is said in the error.

    Raises:
        ValueError: if one is missing.
    """
    name, _, rest = text.partition("=")
    if not name or not rest:
        raise ValueError(f"{text!r} is no {what}")
    return name, rest


def _faces(text: str, options: argparse.Namespace) -> list[Face]:
    """The faces of a source; at most ``--limit`` of each class, always the same ones."""
    from comics.config import get_cfg
    from comics.data.faces.loader import load_faces

    name, entry = named(text)
    manifest = load_faces(get_cfg(), entry)
    sides = (manifest.boxes[:, 2:] - manifest.boxes[:, :2]).min(axis=1)
    kept = np.flatnonzero(~(sides < options.min_side))  # NaN, a whole picture, is not less
    if options.limit is not None:
        rng = np.random.default_rng(0)
        parts = [kept[manifest.labels[kept] == label] for label in (0, 1)]
        kept = np.sort(np.concatenate([rng.permutation(part)[: options.limit] for part in parts]))
    faces = []
    for index in kept.tolist():
        row = manifest[index]
        group = manifest.name(index, "group") or manifest.name(index, "video") or row.path
        method = manifest.name(index, "method")
        faces.append(Face(name, row.path, row.box, row.label, method, group))
    return faces


def _boxes(
    faces: Sequence[Face], predictor, options: argparse.Namespace
) -> dict[str, tuple[list[float] | None, float]]:
    """Path -> (box, the detector's P(fake)) of the best face of each picture without a box."""
    from comics.data.images import read_image
    from comics.inference.predictor import Predictor
    from comics.inference.verdict import VerdictRule

    path = options.output / "boxes.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    wanted = [p for p in dict.fromkeys(f.path for f in faces if f.box is None) if p not in known]
    rule = VerdictRule(score_threshold=LEAST_SCORE,
                       temperature=predictor.model.detector_temperature.item())  # fmt: skip
    size = options.detect_size or predictor.min_size
    detector = Predictor(
        predictor.model.detector, rule, min_size=size, max_size=max(size, predictor.max_size),
        max_pixels=predictor.max_pixels, device=predictor.device,
    )  # fmt: skip
    for number, picture in enumerate(tqdm(wanted, desc="boxes", unit="picture")):
        (found,) = detector.predict([read_image(picture)])
        best = None if not len(found) else found.boxes[0].tolist()
        known[picture] = [best, float(found.fake_probability[0]) if len(found) else 0.5]
        if number % 100 == 99:
            path.write_text(json.dumps(known), encoding="utf-8")
    path.write_text(json.dumps(known), encoding="utf-8")
    missed = [f for f in faces if f.box is None and known[f.path][0] is None]
    for source in dict.fromkeys(face.source for face in missed):
        count = sum(face.source == source for face in missed)
        print(f"{source}: no face found in {count} pictures: taken whole")
    return known


def _scores(faces, boxes, predictor, conditions, weights: str, options) -> dict[str, float]:
    """``_key`` -> P(fake), not calibrated; what is stored already is not computed again."""
    path = options.output / f"scores_{Path(weights).stem}_{predictor.model.fusion}.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    pictures: dict[str, list[int]] = {}
    for number, face in enumerate(faces):
        pictures.setdefault(face.path, []).append(number)
    names = list(pictures)
    for start in tqdm(range(0, len(names), BATCH), desc=Path(weights).stem, unit="batch"):
        chunk = names[start : start + BATCH]
        _score_chunk(faces, [pictures[name] for name in chunk], boxes, predictor, conditions, known)
        if start // BATCH % 20 == 19:
            path.write_text(json.dumps(known), encoding="utf-8")
    path.write_text(json.dumps(known), encoding="utf-8")
    return known


def _key(face: Face, condition: str) -> str:
    box = "" if face.box is None else ",".join(f"{value:.1f}" for value in face.box)
    return f"{face.path}|{box}|{condition}"


def _row(face: Face, condition: str, known: Mapping[str, float], temperature: float) -> dict:
    from comics.evaluation.calibration import calibrate

    score = known[_key(face, condition)]

    return {
        "label": face.label, "fake_probability": float(calibrate([score], temperature)[0]),
        "source": face.source, "condition": condition, "method": face.method, "group": face.group,
    }  # fmt: skip


def _score_chunk(faces, members, boxes, predictor, conditions, known: dict[str, float]) -> None:
    """Add the fused P(fake), not calibrated, of the faces of some pictures to ``known``."""
    import torch

    from comics.data.images import image_to_tensor, read_image
    from comics.ops.verdicts import fuse_probabilities

    images, places, keys, own = [], [], [], []
    for numbers in members:
        wanted = [(n, name, change) for n in numbers for name, change in conditions
                  if _key(faces[n], name) not in known]  # fmt: skip
        picture = read_image(faces[numbers[0]].path) if wanted else None
        for number, name, change in wanted:
            face = faces[number]
            found, said = boxes.get(face.path, (None, 0.5)) if face.box is None else (face.box, 0.5)
            box = found or (0.0, 0.0, picture.shape[1], picture.shape[0])
            image, box = change(picture, tuple(box))
            images.append(image_to_tensor(image).to(predictor.device))
            places.append(torch.tensor([box], dtype=torch.float32, device=predictor.device))
            keys.append(_key(face, name))
            own.append(said)
    if not keys:
        return
    with torch.inference_mode():
        said = torch.cat(predictor.model.face_probability(images, places)).cpu().double()
    fused = fuse_probabilities(torch.tensor(own).double(), said, predictor.model.fusion)
    known.update(zip(keys, fused.tolist(), strict=True))


def choose_and_store(rows, weights: str, options: argparse.Namespace) -> None:
    """Choose temperature, threshold and unclear band, print them, and write the model file.

    Args:
        rows: ``SourceRows`` of validation, with P(fake) not calibrated.
        weights: the model file.
        options: ``store``, ``false_alarms`` and ``unclear``.
    """
    from comics.evaluation.calibration import calibrate, store_choice
    from comics.evaluation.source_figures import (
        coverage_curve,
        temperature_of_all,
        threshold_of_all,
        unclear_below,
    )

    fitted = temperature_of_all(rows)
    threshold, needed = threshold_of_all(rows, options.false_alarms)
    for (source, condition), value in needed.items():
        own = float(calibrate([value], fitted.temperature)[0])
        print(f"{source}, {condition}: alone {own:.4f}")
    curve = coverage_curve(rows, threshold, UNCLEAR_SHARES)
    print("unclear at most | called | wrong, mean of sources | wrong, worst source")
    for share, point in zip(UNCLEAR_SHARES, curve, strict=True):
        print(f"{share:15.0%} | {point.coverage:6.1%} | {point.error:22.1%} | "
              f"{point.worst_error:19.1%}")  # fmt: skip
    below = threshold - unclear_below(rows, threshold, options.unclear)
    threshold, below = calibrate([threshold, below], fitted.temperature).tolist()
    chosen = {"FAKE_THRESH": round(threshold, 4), "UNCLEAR.BELOW": round(threshold - below, 4),
              "UNCLEAR.ABOVE": 0.0}  # fmt: skip
    names = ", ".join(dict.fromkeys(rows.sources.tolist()))
    source = f"{names}: at most {options.false_alarms:.0%} of the real faces of each"
    store_choice(weights, options.store, fitted, chosen, source)
    print(f"{source}: temperature {fitted.temperature:.3f}, {chosen}")


def _table(rows, predictor, clips: bool) -> tuple[list[str], dict]:
    """Markdown lines and the figures by row."""
    from comics.evaluation.source_figures import by_group, method_figures, source_figures

    doubt = predictor.doubt_rule
    limits = (predictor.rule.fake_threshold, doubt.below, doubt.above)
    tables: dict[str, Mapping] = {}
    for (source, condition), part in rows.parts().items():
        tables[f"{source}, {condition}"] = source_figures(part, *limits)
        if condition == "clean":
            methods = method_figures(part, *limits)
            if len(methods) > 1:
                tables |= {f"{source}: {name}": figures for name, figures in methods.items()}
            if clips:
                whole = by_group(part)
                tables[f"{source}, per clip"] = source_figures(whole, *limits)
                of_clips = method_figures(whole, *limits)
                tables |= {f"{source}: {name}, per clip": f for name, f in of_clips.items()}
    names = list(next(iter(tables.values())))
    lines = [f"| | faces | {' | '.join(names)} |", "|---|---:|" + "---:|" * len(names)]
    for title, figures in tables.items():
        count = figures["AUC"].count or figures["real called forged"].count
        cells = " | ".join(figure.text() for figure in figures.values())
        lines.append(f"| {title} | {count} | {cells} |")
    return lines, {t: {n: vars(f) for n, f in figures.items()} for t, figures in tables.items()}


if __name__ == "__main__":
    sys.exit(main())
