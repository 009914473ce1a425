"""Tiny models of every registered detector; videos and a predictor that finds patches."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from comics.config import load_config
from comics.structures import Faces

TINY = [
    "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "16", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16",
    "MODEL.RESNETS.WIDTH_PER_GROUP", "16",
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1",
    "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.BASIS_MODULE.CONVS_DIM", "16",
    "MODEL.BASIS_MODULE.NUM_CONVS", "1", "MODEL.BLENDMASK.ATTN_SIZE", "7",
    "MODEL.BLENDMASK.BOTTOM_RESOLUTION", "28", "MODEL.COMICS.PROPOSAL.BANK_SIZE", "64",
    "MODEL.COMICS.PROPOSAL.DIM", "16", "MODEL.COMICS.PROPOSAL.MATCH", "assigned",
]  # fmt: skip
# What a detector needs besides, plain and as its COMICS variant
TINY_OF = {
    "MEInst": [
        "MODEL.MEInst.NUM_CLS_CONVS", "1", "MODEL.MEInst.NUM_BOX_CONVS", "1",
        "MODEL.MEInst.NUM_MASK_CONVS", "1", "MODEL.MEInst.DIM_MASK", "20",
    ],
    "SOLOv2": [
        "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.TOP_BLOCK", "pool", "MODEL.SOLOV2.NUM_GRIDS", "[16, 12, 8, 6, 4]",
        "MODEL.SOLOV2.INSTANCE_CHANNELS", "32", "MODEL.SOLOV2.NUM_INSTANCE_CONVS", "1",
        "MODEL.SOLOV2.MASK_CHANNELS", "32", "MODEL.SOLOV2.NUM_KERNELS", "32",
        "MODEL.SOLOV2.NUM_MASKS", "32",
        "MODEL.COMICS.PROPOSAL.LEVELS", "['p2', 'p3', 'p4', 'p5', 'p6']",
    ],
    "MaskRCNN": [
        "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.TOP_BLOCK", "pool", "MODEL.ROI_BOX_HEAD.FC_DIM", "64",
        "MODEL.ROI_MASK_HEAD.CONV_DIM", "32", "MODEL.ROI_MASK_HEAD.NUM_CONV", "2",
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "200", "MODEL.RPN.PRE_NMS_TOPK_TEST", "100",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "50",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32",
        "MODEL.COMICS.PROPOSAL.LEVELS", "['p2', 'p3', 'p4', 'p5']",
        "MODEL.COMICS.PROPOSAL.LEVEL_WEIGHTS", "[0.1, 0.2, 0.4, 0.7]",
    ],
    "CondInst": [
        "MODEL.CONDINST.MASK_BRANCH.CHANNELS", "16", "MODEL.CONDINST.MASK_BRANCH.NUM_CONVS", "1",
    ],
}  # fmt: skip


def words_of(name: str) -> list[str]:
    """KEY VALUE pairs of a tiny model of that architecture."""
    own = TINY_OF.get(name.removeprefix("COMICS"), [])
    return [*TINY, *own, "MODEL.META_ARCHITECTURE", name]


def config_of(name: str, *overrides: str):
    return load_config(overrides=[*words_of(name), *overrides])


@pytest.fixture(scope="session")
def tiny_words():
    """Function: name of an architecture to the keys and values that make it tiny."""
    return words_of


@pytest.fixture(scope="session")
def tiny_config():
    """Function: name of an architecture and further keys and values to its configuration."""
    return config_of


RED, BLUE = (255, 0, 0), (0, 0, 255)


def encode_sound(container, stream, seconds):
    samples = np.sin(np.arange(int(16000 * seconds)) / 10).astype(np.float32)[None] / 2
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    container.mux(stream.encode(frame))


@pytest.fixture(scope="session")
def encode_video():
    """Function that writes a video of [H, W, 3] frames."""

    def encode(path, frames, *, times=None, rate=25, rotation=0, sound=None, codec="libx264",
               pixels="yuv420p", options=None, container_options=None):  # fmt: skip
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pixels
            time_base = Fraction(1, rate)
            if times is not None:
                time_base = stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
            if sound:
                audio = container.add_stream(sound, rate=16000)
                audio.layout, audio.bit_rate = "mono", 32000
                encode_sound(container, audio, len(frames) / rate)
            for number, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = number if times is None else times[number]
                frame.time_base = time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound:
                container.mux(audio.encode(None))
        return path

    return encode


def scene(height=48, width=64, patches=()):
    """Grey picture with (colour, x0, y0, x1, y1) patches."""
    image = np.full((height, width, 3), 128, np.uint8)
    for colour, x0, y0, x1, y1 in patches:
        image[y0:y1, x0:x1] = colour
    return image


@pytest.fixture(scope="session")
def make_scene():
    return scene


class PatchPredictor:
    """A red patch is a forged face, a blue one a real face."""

    max_pixels = 1_000_000
    provenance = {"model": "patches"}

    def __init__(self):
        self.batches = []

    def predict(self, images):
        self.batches.append(len(images))
        return [self._find(image) for image in images]

    def _find(self, image):
        boxes, labels = [], []
        for label, channel in ((0, 2), (1, 0)):
            others = [c for c in range(3) if c != channel]
            mask = (image[..., channel] > 180) & (image[..., others] < 90).all(-1)
            if mask.any():
                rows, columns = np.nonzero(mask)
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(label)
        count = len(labels)
        labels = torch.tensor(labels, dtype=torch.int64)
        return Faces(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
            image_size=image.shape[:2],
            labels=labels,
            scores=torch.full((count,), 0.9),
            fake_probability=torch.where(labels == 1, 0.8, 0.1),
        )


@pytest.fixture
def patch_predictor():
    return PatchPredictor()
