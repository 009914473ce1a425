"""The keys of ``MODEL.COMICS`` and odd batches, with every detector: losses stay finite, terms that
have nothing to learn from are exact zeros with a gradient.
"""

import pytest
import torch

from comics.modeling.build import build_model
from comics.modeling.predictions import every_proposal
from comics.structures import Faces

TERMS = ("loss_proposal_contrast", "loss_pixel_intra", "loss_pixel_inter")
ANY = ["MODEL.COMICS.PROPOSAL.MATCH", "any", "MODEL.COMICS.PROPOSAL.MATCH_IOU", "0.0"]
PREDICTED = ["MODEL.COMICS.PIXEL.MASKS", "predicted", "MODEL.COMICS.PIXEL.PREDICTED_IOU", "0.0",
             "MODEL.COMICS.PIXEL.BOUNDARY_MARGIN", "0"]  # fmt: skip
FEATURES = ["MODEL.COMICS.FEA.SOURCES", "['image', 'features']"]
# So that a network of random weights finds faces
EAGER = ["MODEL.FCOS.PRIOR_PROB", "0.3", "MODEL.MEInst.PRIOR_PROB", "0.3",
         "MODEL.SOLOV2.PRIOR_PROB", "0.3", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.05",
         "MODEL.SOLO.PRIOR_PROB", "0.3", "MODEL.RETINANET.PRIOR_PROB", "0.3"]  # fmt: skip


def scene(labels=(0, 1), size=(96, 128), side=40, seed=0):
    """Noise with a lighter ellipse for each face."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 120, (3, *size), generator=generator).float()
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    boxes, masks = [], []
    for index, _ in enumerate(labels):
        x, y = 10 + 60 * index, 24
        boxes.append([x, y, x + side, y + side])
        half = side / 2
        mask = ((columns + 0.5 - x - half) / half) ** 2 + ((rows + 0.5 - y - half) / half) ** 2 < 1
        image[:, mask] += 100
        masks.append(mask)
    if not labels:
        return image.to(torch.uint8), Faces.empty(size)
    faces = Faces(torch.tensor(boxes).float(), size, torch.tensor(labels), masks=torch.stack(masks))
    return image.to(torch.uint8), faces


@pytest.fixture
def comics(tiny_config):
    """Function: COMICS variant of a detector and further keys to a model ready to be trained."""

    def make(name, *overrides):
        torch.manual_seed(0)
        model = build_model(tiny_config(name, *overrides))
        model.prepare_training()
        return model.train()

    return make


def step(model, *scenes):
    images, targets = map(list, zip(*scenes, strict=True))
    model.zero_grad()
    output = model(images, targets, key_images=images)
    sum(output.losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in output.losses.values()), output.losses
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    model.after_optimizer_step()
    return output


def only_comics(name):
    if not name.startswith("COMICS"):
        pytest.skip("a detector without the additions")


@pytest.mark.parametrize("labels", [(0, 0), (1, 1), ()])
def test_batches_of_one_class_or_of_none(mask_detector, comics, labels):
    """Photos in which every face is forged, or none is, or there is no face: exact zeros."""
    only_comics(mask_detector)
    model = comics(mask_detector)
    for seed in range(2):  # the second step finds banks
        output = step(model, scene(labels, seed=seed), scene(labels, seed=seed + 9))
        assert all(output.losses[term].item() == 0 for term in TERMS)
    assert output.metrics["pixel_faces"] == (4 if labels else 0)


def test_faces_below_the_stride_of_the_finest_level(mask_detector, comics):
    only_comics(mask_detector)
    model = comics(mask_detector)
    for seed in range(2):
        output = step(model, scene(side=5, seed=seed), scene(side=3, seed=seed + 9))
    assert all(torch.isfinite(output.losses[term]) for term in TERMS)


def test_every_proposal_of_either_view(mask_detector, comics):
    """Boxes by level, as many cells as they say; MATCH any learns from them."""
    only_comics(mask_detector)
    model = comics(mask_detector, *EAGER, *ANY)
    image, faces = scene()
    batch = model.detector.preprocess([image, image])
    features = model.detector.extract_features(batch)
    try:
        found = every_proposal(model.detector, features, batch)
    except ValueError as error:
        assert "does not give its proposals" in str(error)  # a detector may leave it out
        with pytest.raises(ValueError, match="PROPOSAL.MATCH iou or assigned"):
            step(model, (image, faces))
        return
    assert sum(len(level.image) for level in found.values()) > 0
    for level, one in found.items():
        assert len(one.boxes) == len(one.image)
        assert set(one.image.tolist()) <= {0, 1}
        assert not one.boxes.requires_grad
        if one.cells is not None:
            assert len(one.cells) == len(one.image)
            assert (one.cells < features[level].shape[-2:].numel()).all()
    for seed in range(2):
        output = step(model, scene(seed=seed), scene(seed=seed + 9))
    assert output.metrics["proposal_pairs"] > 0
    assert output.losses["loss_proposal_contrast"].item() > 0


def test_predicted_masks(mask_detector, comics):
    """Masks of detections take part; none of them carries a gradient to the mask predictor."""
    only_comics(mask_detector)
    model = comics(mask_detector, *EAGER, *PREDICTED)
    used = 0.0
    for seed in range(3):
        output = step(model, scene(seed=seed), scene(seed=seed + 9))
        used += output.metrics["pixel_faces"].item()
    assert used > 0
    annotated = comics(mask_detector, *EAGER, "MODEL.COMICS.PIXEL.BOUNDARY_MARGIN", "0")
    for seed in range(3):
        other = step(annotated, scene(seed=seed), scene(seed=seed + 9))
    assert other.metrics["pixel_faces"] == 4


def test_attention_that_reads_features(mask_detector, comics):
    only_comics(mask_detector)
    model = comics(mask_detector, *FEATURES)
    for seed in range(2):
        output = step(model, scene(seed=seed), scene((), seed=seed + 9))
    model.eval()
    with torch.no_grad():
        model([scene()[0]])
    assert model.frequency.spatial_attention.conv.weight.grad[:, 2:].any()
    assert output.losses


@pytest.mark.parametrize("size", [1, 2, 7, 28])
def test_maps_smaller_than_28_cells(comics, size):
    """At 2 x 2 a margin of 2 leaves no region: exact zeros, still connected."""
    model = comics("COMICSBlendMask", "MODEL.COMICS.PIXEL.SIZE", str(size))
    output = step(model, scene(), scene(seed=9))
    if size < 5:
        assert output.metrics["pixel_faces"] == 0
        assert output.losses["loss_pixel_intra"].item() == 0
        assert output.losses["loss_pixel_inter"].item() == 0
    assert output.losses["loss_pixel_intra"].requires_grad


def test_pictures_whose_maps_are_smaller_than_28_cells(mask_detector, comics):
    """40 x 48 pixels: the finest map of masks has 12 x 16 cells; ROIAlign enlarges it."""
    only_comics(mask_detector)
    model = comics(mask_detector)
    for seed in range(2):
        small = [scene((label,), size=(40, 48), side=14, seed=seed) for label in (0, 1)]
        output = step(model, *small)
    assert output.metrics["pixel_faces"] == 2
    assert output.losses["loss_pixel_intra"].item() > 0
