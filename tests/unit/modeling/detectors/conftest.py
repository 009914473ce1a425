"""Models with the reference's weights, and its samples in our types."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from comics.config import CfgNode, get_cfg
from comics.config.renamed import with_new_names, words_with_new_names
from comics.integrations.weights import convert_adelaidet
from comics.modeling.detectors.base import Detector
from comics.modeling.weights import load_state
from comics.registry import DETECTORS
from comics.structures import Faces


def take_known(ours: dict, theirs: dict) -> None:
    for key, value in ours.items():
        if isinstance(value, dict):
            take_known(value, theirs.get(key, {}))
        elif key in theirs:
            ours[key] = theirs[key]


def unpack(bits: Tensor, width: int) -> Tensor:
    """Bits packed along the width, first bit highest, to bool [N, H, width]."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[..., :width].astype(bool))


@dataclass(frozen=True)
class Reference:
    """A recording, full or as it ships, and models built from it."""

    data: dict
    architecture: str
    settings: tuple[str, ...] = ()  # keys and values that the reference's configuration implies

    def model(self, *overrides) -> Detector:
        cfg = get_cfg()
        theirs = with_new_names(CfgNode(yaml.safe_load(self.data["cfg_yaml"])))
        take_known(cfg.MODEL, theirs.MODEL)
        cfg.INPUT.FORMAT = "BGR"
        cfg.MODEL.BLENDMASK.PASTE_CLIPPED = True  # the peer's rule
        cfg.merge_from_list(words_with_new_names([*self.settings, *overrides]))
        model = DETECTORS.get(self.architecture).from_config(cfg)
        converted, unmatched = convert_adelaidet(self.data["state_dict"])
        assert unmatched == []
        if not cfg.MODEL.BASIS_MODULE.LOSS_ON:
            converted = {k: v for k, v in converted.items() if "basis_module.semantic" not in k}
        load_state(model, converted | extra_buffers(model), "reference")
        return model

    def eval_model(self, *overrides) -> Detector:
        return self.model(*overrides).eval()

    def train_model(self, *overrides) -> Detector:
        return self.model(*overrides).train()

    def image(self, name: str) -> Tensor:
        return rgb(self.data["inputs"][name])

    def training_batch(self, empty: tuple[int, ...] = ()) -> tuple[list[Tensor], list[Faces]]:
        images, targets = [], []
        for position, sample in enumerate(self.data["targets"]):
            size = (sample["height"], sample["width"])
            faces = Faces(
                sample["boxes"],
                size,
                sample["classes"],
                masks=unpack(sample["mask_bits"], sample["width"]),
            )
            images.append(rgb(sample["image"]))
            targets.append(Faces.empty(size) if position in empty else faces)
        return images, targets


def rgb(image: Tensor) -> Tensor:
    return image.flip(0)


def extra_buffers(model: torch.nn.Module) -> dict[str, Tensor]:
    """State that the reference keeps outside its state dict."""
    return {k: v for k, v in model.state_dict().items() if k == "loss.moving_positives"}


def load_reference(
    adelaidet, name: str, architecture: str, settings: tuple[str, ...] = ()
) -> Reference:
    return Reference(adelaidet.model(name), architecture, settings)


@pytest.fixture(scope="module")
def fcos_reference(adelaidet) -> Reference:
    return load_reference(adelaidet, "fcos", "FCOS")


@pytest.fixture(scope="module")
def blendmask_reference(adelaidet) -> Reference:
    return load_reference(adelaidet, "blendmask", "BlendMask")


@pytest.fixture(scope="module")
def condinst_reference(adelaidet) -> Reference:
    return load_reference(adelaidet, "condinst", "CondInst")


@pytest.fixture(scope="module")
def solov2_reference(adelaidet) -> Reference:
    settings = ("MODEL.FPN.TOP_BLOCK", "pool", "MODEL.SOLOV2.MASK_TARGETS", "opencv")
    return load_reference(adelaidet, "solov2", "SOLOv2", settings)


def load_meinst(adelaidet, name: str) -> Reference:
    """With the basis of the state dict, and the peer's way of pasting."""
    settings = ("MODEL.MEInst.FLAG_PARAMETERS", "True", "MODEL.MEInst.PASTE_CLIPPED", "True")
    return load_reference(adelaidet, name, "MEInst", settings)


@pytest.fixture(scope="module")
def meinst_reference(adelaidet) -> Reference:
    return load_meinst(adelaidet, "meinst")


@pytest.fixture(scope="module")
def meinst_dcn_reference(adelaidet) -> Reference:
    return load_meinst(adelaidet, "meinst_dcn")


@pytest.fixture(scope="session")
def assert_same_detections() -> Callable[[Faces, dict], list[tuple[int, int]]]:
    """Match by class and box, whatever the rank; returns (ours, theirs) pairs."""

    def check(faces: Faces, expected: dict) -> list[tuple[int, int]]:
        assert len(faces) == expected["count"]
        assert list(faces.image_size) == list(expected["image_size"])
        pairs = []
        free = set(range(len(faces)))
        for index in range(expected["count"]):
            gap = (faces.boxes - expected["boxes"][index]).abs().amax(dim=1)
            gap[faces.labels != expected["classes"][index]] = torch.inf
            gap[[i for i in range(len(faces)) if i not in free]] = torch.inf
            best = int(gap.argmin())
            assert gap[best] < 0.02
            assert abs(faces.scores[best] - expected["scores"][index]) < 1e-4
            free.remove(best)
            pairs.append((best, index))
        return pairs

    return check


@pytest.fixture(scope="session")
def assert_same_gradients() -> Callable[[Detector, Reference, dict], None]:
    """Gradient norm of every parameter of the summed loss, and the set of those without one."""

    def check(model: Detector, reference: Reference, expected: dict) -> None:
        own_name, _ = convert_adelaidet({name: name for name in reference.data["state_dict"]})
        parameters = dict(model.named_parameters())
        compared = 0
        for ours, theirs in own_name.items():
            if theirs in expected["grad_norm"]:
                norm = parameters[ours].grad.norm().item()
                assert norm == pytest.approx(expected["grad_norm"][theirs], rel=1e-2, abs=1e-6)
                compared += 1
            elif theirs in expected["no_grad"]:
                assert parameters[ours].grad is None
        assert compared == len(expected["grad_norm"])

    return check
