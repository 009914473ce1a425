"""Long videos, clip by clip: each clip on any machine, then one pass that joins them.

A clip is the part of a video from one moment to another. What is found in its frames is kept as
the model gave it, unrounded; faces are followed only when all clips are there, through the whole
video. So a track does not end where a clip ends, and the outcome is that of a run over the whole
video.

A payload is a JSON object: of a frame, or, at the end of a clip, of how reading it went.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from comics.data.custody.credentials import CredentialsReader
from comics.data.custody.facts import FileFacts, read_facts
from comics.ops.masks import rle_to_bitmap
from comics.runs.outputs import (
    FAILED,
    TOO_LITTLE_MEMORY,
    FileStatus,
    faces_to_entries,
    file_entry,
    image_entry,
)
from comics.runs.run import OUT_OF_MEMORY, VideoPredictor
from comics.runs.video import Following, VideoOptions, VideoOutputs, judge_video
from comics.scale.scanner import FaceScanner, Scanned
from comics.scale.tables import face_row, file_row
from comics.structures import Faces, NotFiniteError
from comics.video.frames import Frame, Selection, VideoError
from comics.video.stream import VideoReport, no_frame, process_video
from comics.video.tracks_file import TrackRecorder

SHOWN_FAULTS = 5
NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


def scan_clip(
    scanner: FaceScanner,
    path: str | os.PathLike,
    name: str,
    start_s: float,
    end_s: float | None,
    alive: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """The payloads of a clip: its analysed frames in order, then how reading went.

    Args:
        scanner: with the model.
        path: of the video.
        name: what results call it.
        start_s, end_s: of the clip; None: to the video's end.
        alive: called now and then.
    """
    payloads: list[dict[str, Any]] = []

    def on_frame(frame: Frame, faces: Faces) -> None:
        payloads.append(_frame_payload(frame, faces, name))

    options = scanner.video_options
    selection = Selection(1, options.max_fps, start_s, end_s)
    predictor = VideoPredictor(scanner.predictor, lambda: bool(alive() and False))
    failed, report = None, None
    try:
        report = process_video(
            path,
            predictor.predict,
            on_frame,
            max_pixels=scanner.predictor.max_pixels,
            batch_size=options.batch_size,
            selection=selection,
        )
    except VideoError as error:
        # Where the header promises more than there is, nothing is lost: the clip before says so
        failed = None if start_s and error.reason == no_frame(selection) else error.reason
    except OUT_OF_MEMORY:
        failed = f"{TOO_LITTLE_MEMORY} for its frames"
    except NotFiniteError as error:
        failed = f"no verdict: {error}"
    facts = None
    if not start_s:
        with CredentialsReader(None) as credentials:
            facts = read_facts(path, None, credentials)
    end = {
        "start_s": start_s,
        "failed": failed,
        "report": None if report is None else asdict(report),
        "facts": None if facts is None else facts.entry(),
    }
    return [*payloads, end] if failed is None else [end]


def join_clips(name: str, options: VideoOptions, payloads: Iterable[dict[str, Any]]) -> Scanned:
    """The rows of a video, from the payloads of all of its clips, in their order.

    Args:
        name: what results call it.
        options: with which the clips were analysed.
        payloads: see ``scan_clip``; gone through once.
    """
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []  # of the frame at hand

    def add_frame(frame: Frame, faces: Faces, track_ids: Sequence[int]) -> None:
        image = image_entry(name, faces, frame.index, frame.time_s)
        for entry, track in zip(entries, track_ids, strict=True):
            rows.append(face_row(image, len(images), entry | {"track_id": track}))
        images.append(image)

    first = 0  # of the frames of the clip at hand
    with TrackRecorder(options.rule) as recorder:
        following = Following(options.rule, recorder, add_frame, draws=False)
        for payload in payloads:
            if "failed" in payload:
                ends.append(payload)
                first += 0 if payload["report"] is None else payload["report"]["frames"]
                continue
            entries = payload["entries"]
            index, time_s = first + payload["index"], payload["time_s"]
            following.on_frame(Frame(NO_IMAGE, index, 0, 0, time_s), _faces(payload))
        status = _status(name, options, ends, recorder, following)
    facts = next((end["facts"] for end in ends if end["facts"] is not None), None)
    if facts is not None:
        status = replace(status, facts=FileFacts.from_entry(facts))
    return Scanned(file_row(file_entry(status), images), rows)


def _frame_payload(frame: Frame, faces: Faces, name: str) -> dict[str, Any]:
    assert faces.scores is not None and faces.fake_probability is not None  # a predictor's
    return {
        "index": frame.index,
        "time_s": frame.time_s,
        "size": list(faces.image_size),
        "boxes": faces.boxes.tolist(),
        "labels": faces.labels.tolist(),
        "scores": faces.scores.tolist(),
        "fake_probability": faces.fake_probability.tolist(),
        "doubts": None if faces.doubts is None else faces.doubts.tolist(),
        "entries": faces_to_entries(faces, name),
    }


def _faces(payload: dict[str, Any]) -> Faces:
    """The faces of a frame."""
    doubts = payload["doubts"]
    height, width = payload["size"]
    rles = [entry["segmentation"] for entry in payload["entries"] if "segmentation" in entry]
    return Faces(
        boxes=torch.tensor(payload["boxes"], dtype=torch.float32).reshape(-1, 4),
        image_size=(height, width),
        labels=torch.tensor(payload["labels"], dtype=torch.int64),
        scores=torch.tensor(payload["scores"], dtype=torch.float32),
        masks=torch.stack([rle_to_bitmap(rle) for rle in rles]) if rles else None,
        fake_probability=torch.tensor(payload["fake_probability"], dtype=torch.float32),
        doubts=None if doubts is None else torch.tensor(doubts, dtype=torch.int64),
    )


def _status(
    name: str,
    options: VideoOptions,
    ends: Sequence[dict[str, Any]],
    recorder: TrackRecorder,
    following: Following,
) -> FileStatus:
    """What became of the video."""
    reports = [VideoReport(**end["report"]) for end in ends if end["report"] is not None]
    faults = _faults(ends)
    if not reports:
        reason = "; ".join(faults) or "no frame in the video stream"
        return FileStatus(name, "video", FAILED, reason=reason)
    outcome = replace(
        reports[0],
        frames=sum(report.frames for report in reports),
        analysed_frames=sum(report.analysed_frames for report in reports),
        fault="; ".join(faults) or None,
        end_s=reports[-1].end_s,
    )
    return judge_video(
        name, options, VideoOutputs(Path()), outcome, recorder, recorder.tracks(), following.counts
    )


def _faults(ends: Sequence[dict[str, Any]]) -> list[str]:
    """What was wrong with the clips, each with the second that it begins at."""
    faults = []
    for end in ends:
        fault = end["failed"] or (end["report"] or {}).get("fault")
        if fault:
            faults.append(f"from {end['start_s']:g} s on: {fault}")
    if len(faults) > SHOWN_FAULTS:
        return [*faults[:SHOWN_FAULTS], f"and {len(faults) - SHOWN_FAULTS} more clips"]
    return faults
