"""``tools/lab/benchmark.py inference``: frames per second of a video from file to file, beside the
model's own."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
import torch

RATE = 25  # frames per second of the clip
FACES_SHOWN = 5  # of a frame: what a model of random weights says is cut to so many
# A small model: the figure is how much is lost beside it, and that is largest of a quick one
MODEL = [
    "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "BN",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.FPN.OUT_CHANNELS", "64",
    "MODEL.FCOS.NUM_CLS_CONVS", "2", "MODEL.FCOS.NUM_BOX_CONVS", "2",
    "MODEL.FCOS.PRIOR_PROB", "0.3", "MODEL.BASIS_MODULE.CONVS_DIM", "32",
    "MODEL.BASIS_MODULE.NUM_CONVS", "1", "MODEL.COMICS.PROPOSAL.BANK_SIZE", "8",
    "MODEL.FCOS.POST_NMS_TOPK_TEST", str(FACES_SHOWN), "TEST.SCORE_THRESH", "0.05",
]  # fmt: skip


def benchmark_inference(arguments: argparse.Namespace) -> None:
    """Print frames per second and ratios, medians over interleaved rounds."""
    from comics.video.reader import VideoReader

    torch.set_num_threads(arguments.threads)
    predictor = build_predictor(arguments.min_size, arguments.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = make_clip(folder / "clip.mp4", arguments.frames, arguments.width, arguments.height)
        with VideoReader(clip, predictor.max_pixels) as reader:
            images = [frame.image for frame in reader]
        batches = [
            images[start : start + arguments.batch]
            for start in range(0, len(images), arguments.batch)
        ]

        def model_alone() -> None:
            for batch in batches:
                predictor.predict(batch)

        work = {
            "model alone": model_alone,
            "to results": end_to_end(predictor, clip, folder, arguments.batch, media=None),
            "to results and annotated video": end_to_end(
                predictor, clip, folder, arguments.batch, media="annotated.mp4"
            ),
        }
        times = measure_rounds(work, arguments.rounds)
    print(
        f"{len(images)} frames of {arguments.width}x{arguments.height}, seen at a short side of "
        f"{arguments.min_size}, batches of {arguments.batch}, {arguments.threads} threads on "
        f"{predictor.device}, {arguments.rounds} rounds"
    )
    own = times["model alone"]
    for name, (wall, cpu) in times.items():
        ratio = np.median(np.array(own[0]) / np.array(wall))
        print(
            f"  {name:31} {len(images) / np.median(wall):6.1f} frames/s "
            f"({len(images) / max(wall):.1f}-{len(images) / min(wall):.1f}), "
            f"{100 * ratio:.0f} % of the model's own; "
            f"{1000 * np.median(cpu) / len(images):.0f} ms of CPU a frame"
        )


def measure_rounds(
    work: dict[str, Callable[[], None]], rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds, and seconds of CPU, of each, one after the other in every round.

    A round before them warms up. On a busy machine the CPU times are the steadier ones.
    """
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in work}
    for round_number in range(rounds + 1):
        for name, function in work.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            function()
            if round_number:
                times[name][0].append(time.perf_counter() - start)
                times[name][1].append(time.process_time() - cpu_start)
    return times


def end_to_end(
    predictor, clip: Path, folder: Path, batch: int, media: str | None
) -> Callable[[], None]:
    """A function that goes through the clip as ``comics video`` does, with its tracks.

    Without the timeline, whose cost is one of each video, whatever its length.
    """
    from comics.runs.inputs import InputFile
    from comics.runs.video import VideoOptions, VideoOutputs, run_video

    outputs = VideoOutputs(folder, media, "tracks.json")
    options = VideoOptions(batch_size=batch, rule=predictor.video_rule)

    def go() -> None:
        status = run_video(
            InputFile(clip, PurePath(clip.name)), predictor, options, lambda *_: None, outputs
        )
        assert status.status == "ok", status.reason

    return go


def build_predictor(min_size: int, device: str):
    """A predictor of random weights that finds something in every frame."""
    from comics.config import load_config
    from comics.inference.predictor import Predictor
    from comics.inference.verdict import VerdictRule
    from comics.modeling.build import build_model, choose_device

    torch.manual_seed(0)
    cfg = load_config(overrides=MODEL)
    place = choose_device(device)
    model = build_model(cfg).to(place).to(memory_format=torch.channels_last)
    return Predictor(
        model,
        VerdictRule.from_config(cfg),
        min_size=min_size,
        max_size=2 * min_size,
        max_pixels=cfg.INPUT.MAX_PIXELS,
        device=place,
    )


def make_clip(path: Path, frames: int, width: int, height: int) -> Path:
    """An H.264 clip of a textured scene that moves, with sound."""
    import av

    rng = np.random.default_rng(0)
    # Coarse noise, enlarged: it compresses about as a picture does
    coarse = rng.integers(0, 255, (height // 8 + 2, width // 8 + frames, 3), dtype=np.uint8)
    scene = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=48_000)
        audio.layout = "mono"
        sound = np.sin(np.arange(48_000 * frames // RATE) / 20).astype(np.float32)[None] / 2
        packet = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
        packet.sample_rate, packet.pts = 48_000, 0
        container.mux(audio.encode(packet))
        for number in range(frames):
            image = np.ascontiguousarray(scene[:height, 3 * number : 3 * number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
        container.mux(audio.encode(None))
    return path
