import pytest
import torch
from torch import nn

from comics.modeling.detectors.base import Detector, ImageBatch
from comics.modeling.detectors.candidates import Candidates, SquareMasks
from comics.modeling.predictions import as_at_inference, every_proposal, predicted_faces
from comics.structures import Faces

BATCH = ImageBatch(torch.zeros(1, 3, 32, 32), [(32, 32)])
FACES = Faces(
    torch.tensor([[0.0, 0, 8, 8], [10.0, 10, 20, 20], [20.0, 0, 32, 12]]),
    (32, 32),
    torch.tensor([0, 1, 1]),
    masks=torch.ones(3, 32, 32, dtype=torch.bool),
)


class Fixed(Detector):
    """Finds what it was told to."""

    def __init__(self, found):
        super().__init__(nn.BatchNorm2d(3), [0.0] * 3, [1.0] * 3)
        self.answer = found

    def dense(self, features):
        assert not self.training
        assert not torch.is_grad_enabled()
        return {"seen": self.backbone(features["p3"])}

    def select(self, dense, sizes):
        return self.answer


def detections(boxes, soft, masked=True):
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.full((len(table),), 0.9)
    labels = torch.zeros(len(table), dtype=torch.int64)  # the class does not matter
    masks = SquareMasks(soft, table) if masked else None
    return [Candidates(table, (32, 32), labels, scores, soft_masks=masks)]


def test_nothing_is_left_behind():
    detector = Fixed(detections([], torch.zeros(0, 4, 4))).train()
    detector.backbone.eval()  # as a frozen part
    before = detector.backbone.running_mean.clone()
    for training in (True, False):
        detector.backbone.train(training)
        predicted_faces(detector, {"p3": torch.randn(1, 3, 4, 4)}, BATCH, [FACES], 0.5)
        assert detector.training and detector.backbone.training == training
        assert torch.is_grad_enabled()
    assert torch.equal(detector.backbone.running_mean, before)
    with pytest.raises(RuntimeError), as_at_inference(detector):
        raise RuntimeError
    assert detector.training


def test_a_face_takes_the_mask_of_the_detection_that_overlaps_it_most():
    soft = torch.zeros(3, 4, 4)
    soft[0, :2], soft[1, :, :2], soft[2] = 1.0, 1.0, 1.0
    boxes = [(10, 10, 20, 18), (10, 10, 20, 20), (0, 0, 8, 3)]
    detector = Fixed(detections(boxes, soft)).train()
    (found,) = predicted_faces(detector, {"p3": torch.randn(1, 3, 4, 4)}, BATCH, [FACES], 0.5)
    assert torch.equal(found.boxes, FACES.boxes[[1]])  # the annotated box, not the predicted one
    assert found.labels.tolist() == [1]
    wanted = torch.zeros(32, 32, dtype=torch.bool)
    wanted[10:20, 10:15] = True  # the left half of the second detection
    assert (found.masks[0] ^ wanted).sum() <= 4  # the corners of soft masks are round


@pytest.mark.parametrize("annotated", [FACES, Faces.empty((32, 32)), FACES[[0]]])
def test_without_detections_or_faces_none_is_left(annotated):
    detector = Fixed(detections([], torch.zeros(0, 4, 4)))
    (found,) = predicted_faces(detector, {"p3": torch.randn(1, 3, 4, 4)}, BATCH, [annotated], 0.5)
    assert len(found) == 0
    assert found.masks.shape == (0, 32, 32)


def test_detectors_that_cannot_are_told_so():
    detector = Fixed(detections([(0, 0, 8, 8)], torch.zeros(1, 4, 4), masked=False))
    with pytest.raises(ValueError, match=r"PIXEL.MASKS predicted needs a detector that predicts"):
        predicted_faces(detector, {"p3": torch.randn(1, 3, 4, 4)}, BATCH, [FACES], 0.5)
    with pytest.raises(ValueError, match=r"Fixed does not give .*PROPOSAL.MATCH iou or assigned"):
        every_proposal(detector, {}, BATCH)
