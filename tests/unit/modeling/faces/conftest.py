"""Face batches and tiny methods for the tests of the face methods."""

import pytest
import torch

from comics.config import load_config
from comics.modeling.faces.build import build_face_method
from comics.modeling.faces.encoder import Encoder
from comics.registry import ENCODERS, FACE_VIEWS
from comics.structures import FaceBatch

SIDE = 64
STANDARD_VIEWS = ("key", "paired_real", "positive", "strong", "other")
VIEWS = (*STANDARD_VIEWS, *(name for name, _ in FACE_VIEWS))
TINY = [
    "MODEL.FACE.ENCODER", "ThreeConvolutions", "MODEL.FACE.CROP_SIZE", str(SIDE),
    "MODEL.FACE.DCL.BANK_SIZE", "16", "MODEL.FACE.DCL.SELECT_THRESHOLD", "-1.0",
    "MODEL.FACE.REAL_CENTRIC.DIM", "16", "MODEL.FACE.REAL_CENTRIC.HIDDEN_DIM", "16",
    "MODEL.FACE.REAL_CENTRIC.HARD_SIZE", "3", "MODEL.FACE.REAL_CENTRIC.STAGE1_EPOCHS", "1",
    "MODEL.FACE.GUIDE_SPACE.BANK_SIZE", "24", "MODEL.FACE.GUIDE_SPACE.NEIGHBOURS", "5",
    "MODEL.FACE.GUIDE_SPACE.ADJUST_EPOCH", "0",
    "MODEL.FACE.COMPRESSION_RELATION.BANK_SIZE", "16",
    "MODEL.FACE.EMBEDDING.DIM", "16", "MODEL.FACE.EMBEDDING.HIDDEN_DIM", "16",
    "MODEL.FACE.EMBEDDING.PREDICTOR_DIM", "16", "MODEL.FACE.ADVERSARIAL.HIDDEN_DIM", "16",
]  # fmt: skip


@ENCODERS.register()
class ThreeConvolutions(Encoder):
    """An encoder that trains in milliseconds."""

    num_features = 16
    pixel_mean = (127.5, 127.5, 127.5)
    pixel_std = (64.0, 64.0, 64.0)

    def __init__(self):
        super().__init__()
        layers = []
        for inputs, outputs in ((3, 8), (8, 8), (8, 16)):
            layers += [torch.nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)]
            layers += [torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers)

    def forward_map(self, x):
        return self.layers(x)


def make_batch(labels, seed=0, valid=True, views=VIEWS, masks=True, side=SIDE) -> FaceBatch:
    """Random crops with brighter fakes, so that the classes can be told apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(labels)
    count = len(labels)

    def crops():
        noise = torch.randint(0, 120, (count, 3, side, side), generator=generator)
        return (noise + 100 * labels[:, None, None, None]).to(torch.uint8)

    flags = torch.full((count,), valid) if isinstance(valid, bool) else torch.tensor(valid)
    mask = torch.zeros(count, side, side, dtype=torch.bool)
    mask[labels == 1, side // 4 : -side // 4, side // 4 : -side // 4] = True
    names = (*views, "mask") if masks else views
    return FaceBatch(
        images=crops(),
        labels=labels,
        views={name: crops() * flags[:, None, None, None] for name in views},
        valid={name: flags.clone() for name in names},
        masks=mask if masks else None,
        methods=torch.where(labels == 1, 1 + torch.arange(count) % 4, 0),
        clusters=torch.arange(count) % 2,
        videos=torch.arange(count),
        sources=torch.arange(count),
        targets=torch.arange(count),
        file_names=[f"crop{i}.png" for i in range(count)],
    )


def make_method(name: str, *overrides: str, prepared: bool = True):
    torch.manual_seed(0)
    method = build_face_method(
        load_config(overrides=[*TINY, "MODEL.FACE.METHOD", name, *overrides])
    )
    if prepared:
        method.prepare_training()
        method.start_epoch(0)
    return method.train()


def make_step(method, optimizer, batch):
    output = method(batch)
    optimizer.zero_grad()
    sum(output.losses.values()).backward()
    optimizer.step()
    method.after_optimizer_step()
    return output


@pytest.fixture(scope="session")
def face_batch():
    return make_batch


@pytest.fixture(scope="session")
def tiny_method():
    return make_method


@pytest.fixture(scope="session")
def train_step():
    return make_step
