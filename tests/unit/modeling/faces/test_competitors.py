"""Competitors of the papers' tables: their parts beside naive loops."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter1d

from comics.modeling.faces.build import build_face_method
from comics.modeling.faces.core import consistency_loss
from comics.modeling.faces.cross_attention import CrossAttention
from comics.modeling.faces.encoder import build_encoder
from comics.modeling.faces.face_x_ray import boundary
from comics.modeling.faces.focal import mean_focal_loss
from comics.modeling.faces.frequency_bands import (
    BandPictures,
    BandStatistics,
    band,
    dct_matrix,
)
from comics.modeling.faces.meso import Inception
from comics.modeling.faces.multi_attention import (
    attention_pool,
    hide_attended,
    independence_loss,
)
from comics.modeling.faces.recce import BipartiteReasoning, metric_loss
from comics.modeling.faces.spsl import phase_picture
from comics.modeling.faces.stems import load_widened, stem_of, widen_stem, widened_kernel

LABELS = [0, 1, 0, 1]


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# -- focal, CORE ------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_focal_loss_is_the_formula(alpha, gamma):
    logits = randn(6).float()
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    values = []
    for logit, label in zip(logits.tolist(), labels.tolist(), strict=True):
        fake = 1 / (1 + math.exp(-logit))
        p, weight = (fake, alpha) if label else (1 - fake, 1 - alpha)
        values.append(-weight * (1 - p) ** gamma * math.log(p))
    found = mean_focal_loss(logits, labels, alpha, gamma)
    assert found.item() == pytest.approx(sum(values) / 6, rel=1e-5)
    assert mean_focal_loss(logits[:0], labels[:0], alpha, gamma) == 0


def test_consistency_is_of_the_two_views_of_a_face():
    first, second = randn(5, 7), randn(5, 7, seed=1)
    values = []
    for a, b in zip(first, second, strict=True):
        values.append((1 - float(a @ b / (a.norm() * b.norm()))) ** 2)
    assert consistency_loss(first, second).item() == pytest.approx(sum(values) / 5, rel=1e-5)
    assert consistency_loss(first, 3 * first).item() == pytest.approx(0, abs=1e-10)


def test_core_draws_the_views_together(tiny_method, face_batch, train_step):
    batch = face_batch(LABELS)
    value = {}
    for weight in ("0.0", "20.0"):
        method = tiny_method("CORE", "MODEL.FACE.CORE.WEIGHT", weight)
        optimizer = torch.optim.Adam(method.parameters(), 1e-3)
        for _ in range(15):
            train_step(method, optimizer, batch)
        with torch.no_grad():
            features = [
                method.encoder(method.preprocess(crops))
                for crops in (batch.images, batch.views["key"])
            ]
        value[weight] = consistency_loss(*features).item()
    assert value["20.0"] < value["0.0"]


# -- Meso -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoder", "count"), [("Meso4", 27977), ("MesoInception4", 28615)])
def test_meso_has_the_papers_number_of_parameters(encoder, count, tiny_method):
    method = tiny_method(
        "Meso", "MODEL.FACE.ENCODER", encoder, "MODEL.FACE.CROP_SIZE", "256", prepared=False
    )
    assert sum(p.numel() for p in method.parameters()) == count
    assert method.encoder.map_size(256) == (8, 8)


def test_inception_is_four_convolutions_side_by_side():
    torch.manual_seed(0)
    module = Inception(3, (1, 4, 4, 2)).eval()
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        found = module(x)
        expected = [module.branches[0][0](x).relu()]
        for dilation, branch in enumerate(list(module.branches)[1:], 1):
            narrow, wide = branch[0](x).relu(), torch.zeros(2, branch[2].out_channels, 9, 9)
            padded = torch.nn.functional.pad(narrow, (dilation,) * 4)
            for i in range(9):
                for j in range(9):
                    for r in range(3):
                        for c in range(3):
                            cells = padded[:, :, i + r * dilation, j + c * dilation]
                            wide[:, :, i, j] += cells @ branch[2].weight[:, :, r, c].T
            expected.append((wide + branch[2].bias[:, None, None]).relu())
    assert torch.allclose(found, torch.cat(expected, dim=1), atol=1e-5)


# -- stems, SPSL ------------------------------------------------------------------------------


def test_a_widened_kernel_answers_equal_inputs_as_before():
    kernel = torch.randn(5, 6, 3, 3)
    wide = widened_kernel(kernel, 7)
    assert wide.shape == (5, 10, 3, 3)
    grey = torch.randn(1, 1, 8, 8)
    before = torch.nn.functional.conv2d(grey.repeat(1, 3, 1, 1), kernel[:, :3])
    mean = torch.nn.functional.conv2d(grey.repeat(1, 6, 1, 1), widened_kernel(kernel, 6)[:, :6])
    assert torch.allclose(before, mean, atol=1e-4)
    assert torch.equal(wide[:, 7:], kernel[:, 3:])


@pytest.mark.parametrize("name", ["resnet10t", "SmallResNet", "mobilenetv3_small_050"])
def test_weights_of_colours_start_a_widened_encoder(name):
    torch.manual_seed(0)
    plain, wide = build_encoder(name), widen_stem(build_encoder(name), 5)
    state = {k: v + 0.01 for k, v in plain.state_dict().items() if v.is_floating_point()}
    plain.load_state_dict(state, strict=False)
    load_widened(wide, plain.state_dict(), "w.safetensors", 5)
    expected = widened_kernel(stem_of(plain).weight, 5)
    assert torch.equal(stem_of(wide).weight, expected)
    wide.eval()
    assert wide.forward_map(torch.randn(2, 5, 64, 64)).shape[1] == plain.num_features
    for key, value in plain.state_dict().items():
        if value.shape == wide.state_dict()[key].shape:
            assert torch.equal(value, wide.state_dict()[key]), key
    with pytest.raises(ValueError, match=r"w\.pth"):
        load_widened(wide, {"nothing": torch.zeros(1)}, "w.pth", 5)


def test_a_phase_picture_has_all_phases_and_no_magnitudes():
    crops = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    found = phase_picture(crops.to(torch.uint8))
    assert found.shape == (2, 1, 16, 16) and found.dtype == torch.float32
    grey = crops.float().mean(dim=1).numpy().astype(np.float64)
    for picture, one in zip(found[:, 0].numpy(), grey, strict=True):
        spectrum = np.fft.fft2(one)
        expected = np.fft.ifft2(spectrum / np.abs(spectrum)).real * 16
        assert np.abs(picture - expected).max() < 1e-3
        assert np.square(picture).mean() == pytest.approx(1, abs=1e-3)
    assert phase_picture(torch.zeros(1, 3, 8, 8)).isfinite().all()
    # Brightness and contrast have no say
    again = phase_picture(2.0 * crops.float())
    assert torch.allclose(again, found, atol=1e-3)


def test_spsl_sees_the_phase(tiny_method, face_batch):
    method = tiny_method("SPSL", prepared=False).eval()
    crops = face_batch(LABELS).images
    x = method.preprocess(crops)
    assert x.shape[1] == 4 and torch.equal(x[:, 3:], phase_picture(crops))
    with torch.no_grad():
        before = method(crops)
        stem_of(method.encoder).weight[:, 3] = 0
        assert not torch.allclose(method(crops), before)


def test_the_shallow_network_takes_xceptions_weights():
    deep, shallow = build_encoder("legacy_xception"), build_encoder("ShallowXception")
    shallow.load_weights(deep.model.state_dict(), "xception.safetensors")
    names = shallow.model.state_dict().keys()
    assert not any(f"block{n}." in name for n in range(4, 12) for name in names)
    assert torch.equal(shallow.model.conv4.conv1.weight, deep.model.conv4.conv1.weight)
    assert shallow.map_size(64) == deep.map_size(64)


# -- two streams ------------------------------------------------------------------------------


def test_cross_attention_is_the_formula():
    torch.manual_seed(0)
    module = CrossAttention(4, reduction=2)
    with torch.no_grad():
        module.gains.copy_(torch.tensor([0.5, 2.0]))
        first, second = torch.randn(2, 1, 4, 2, 3)
        found = module(first, second)
        query = module.first_query(first)[0].flatten(1)
        key = module.second_query(second)[0].flatten(1)
        values = [
            layer(x)[0].flatten(1)
            for layer, x in ((module.second_value, second), (module.first_value, first))
        ]
        pairs = [[float(query[:, i] @ key[:, j]) for j in range(6)] for i in range(6)]
        for cell in range(6):
            for own, value, weights, gain, result in (
                (first, values[0], pairs[cell], 0.5, found[0]),
                (second, values[1], [row[cell] for row in pairs], 2.0, found[1]),
            ):
                total = sum(math.exp(w) for w in weights)
                seen = sum(math.exp(w) / total * value[:, j] for j, w in enumerate(weights))
                expected = own[0].flatten(1)[:, cell] + gain * seen
                assert torch.allclose(result[0].flatten(1)[:, cell], expected, atol=1e-5)


def test_streams_start_as_they_are():
    first, second = torch.randn(2, 3, 8, 2, 2)
    found = CrossAttention(8)(first, second)
    assert torch.equal(found[0], first) and torch.equal(found[1], second)


@pytest.mark.parametrize("name", ["SRMTwoStream", "F3Net"])
def test_both_streams_are_trained_and_both_start_from_the_file(name, tiny_method, face_batch):
    method = tiny_method(name, "MODEL.FACE.ENCODER", "SmallResNet")
    sum(method(face_batch(LABELS)).losses.values()).backward()
    assert len(method.encoders()) == 2
    for encoder in method.encoders():
        assert all(p.grad is not None and (p.grad != 0).any() for p in encoder.parameters())
    given = build_encoder("SmallResNet")
    method.load_encoder_weights(given.state_dict(), "w")
    last = [k for k in given.state_dict() if k.endswith("weight")][-1]
    for encoder in method.encoders():
        assert torch.equal(encoder.state_dict()[last], given.state_dict()[last])


def test_the_residual_stream_sees_no_colour(tiny_method):
    method = tiny_method("SRMTwoStream", prepared=False).eval()
    seen = []
    forward = method.noise_encoder.forward_map
    method.noise_encoder.forward_map = lambda x: seen.append(x) or forward(x)
    with torch.no_grad():
        method(torch.full((1, 3, 64, 64), 90, dtype=torch.uint8))
        method(torch.randint(0, 256, (1, 3, 64, 64)))
    assert not seen[0].any() and seen[1].any() and seen[1].abs().max() <= 1


# -- F3-Net -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 10, 33])
def test_the_cosine_transform_is_scipys(size):
    matrix, x = dct_matrix(size).double(), randn(size, size)
    expected = dctn(x.numpy(), type=2, norm="ortho")
    assert np.abs((matrix @ x @ matrix.T).numpy() - expected).max() < 1e-5
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-6)


def test_bands_part_the_spectrum():
    parts = [band(32, low, high) for low, high in ((0, 1 / 16), (1 / 16, 1 / 8), (1 / 8, 2))]
    assert torch.equal(sum(parts), torch.ones(32, 32)) and torch.equal(
        band(32, 0, 2), torch.ones(32, 32)
    )
    assert [int(p.sum()) for p in parts[:2]] == [6, 15 - 6]  # i + j <= 2 and <= 4


def test_components_are_pictures_of_their_band():
    module = BandPictures(32)
    torch.nn.init.zeros_(module.filters.learnt)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = module(x).unflatten(1, (4, 3))
    assert torch.allclose(found[:, 3], x, atol=1e-4)  # everything
    for part, (low, high) in enumerate(((0, 2), (2, 4), (4, 32))):
        spectrum = dctn(found[0, part, 0].numpy(), type=2, norm="ortho")
        whole = dctn(x[0, 0].numpy(), type=2, norm="ortho")
        for i in range(32):
            for j in range(32):
                kept = (low < i + j or low == 0) and i + j <= high
                assert spectrum[i, j] == pytest.approx(whole[i, j] * kept, abs=1e-4)


def test_local_statistics_are_the_formula():
    torch.manual_seed(0)
    module = BandStatistics(window=4, stride=2, bands=3)
    x = torch.randn(1, 3, 10, 10)
    with torch.no_grad():
        found = module(x)
        filters = module.filters().numpy()
    assert found.shape == (1, 3, 4, 4)
    grey = x[0].mean(dim=0).numpy()
    for row in range(4):
        for column in range(4):
            window = grey[2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
            spectrum = dctn(window, type=2, norm="ortho")
            for index in range(3):
                power = np.abs(spectrum * filters[index]).sum()
                assert found[0, index, row, column] == pytest.approx(math.log10(power), abs=1e-3)


def test_f3_net_is_for_crops_of_its_size(tiny_method):
    with pytest.raises(ValueError, match="crops of 64 pixels"):
        tiny_method("F3Net", prepared=False).eval()(torch.zeros(1, 3, 48, 48))
    with pytest.raises(ValueError, match="BANDS"):
        tiny_method("F3Net", "MODEL.FACE.F3_NET.BANDS", "2")


# -- multi-attention --------------------------------------------------------------------------


def test_attention_pooling_is_the_formula():
    maps, features = randn(2, 3, 4, 5).relu(), randn(2, 6, 4, 5, seed=1)
    found = attention_pool(maps, features)
    for n in range(2):
        for m in range(3):
            total = torch.zeros(6, dtype=torch.float64)
            for i in range(4):
                for j in range(5):
                    total += maps[n, m, i, j] * features[n, :, i, j]
            assert torch.allclose(found[n, m].double(), total / total.norm(), atol=1e-6)
    assert not attention_pool(torch.zeros(1, 1, 2, 2), torch.ones(1, 3, 2, 2)).any()


def test_independence_is_the_formula():
    vectors, centres, moved = randn(4, 3, 5), randn(3, 5, seed=1), 0.1 * randn(3, 5, seed=2)
    margins = torch.tensor([0.05, 0.1, 0.05, 8.0], dtype=torch.float64)
    near = [
        max(float((vectors[i, k] - centres[k]).square().sum()) - float(margins[i]), 0)
        for i in range(4)
        for k in range(3)
    ]
    away = [
        max(0.2 - float((moved[k] - moved[j]).square().sum()), 0)
        for k in range(3)
        for j in range(3)
        if k != j
    ]
    assert 0 in near and any(away)
    found = independence_loss(vectors, centres, moved, margins, 0.2)
    assert found.item() == pytest.approx(sum(near) / 12 + sum(away) / 6, rel=1e-9)
    assert independence_loss(vectors[:0], centres, moved, margins[:0], 0.2) == 0


def test_what_is_attended_to_is_blurred_and_nothing_else():
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    maps = torch.zeros(1, 2, 32, 32)
    maps[0, 1, 8:16, 8:16] = 0.5
    hidden = hide_attended(image, maps, torch.tensor([1]))
    blurred = gaussian_filter1d(
        gaussian_filter1d(image.numpy(), 5.0, axis=2, mode="nearest", radius=5),
        5.0, axis=3, mode="nearest", radius=5,
    )  # fmt: skip
    assert torch.equal(hidden[..., :8, :], image[..., :8, :])
    inside = hidden[0, :, 8:16, 8:16].numpy()
    assert np.abs(inside - blurred[0, :, 8:16, 8:16]).max() < 1e-2
    assert torch.equal(hide_attended(image, maps, torch.tensor([0])), image)


def test_centres_move_towards_the_batch(tiny_method, face_batch):
    method = tiny_method("MultiAttention", "MODEL.FACE.MULTI_ATTENTION.RATE", "0.5")
    centres = method.training_only["centres"]
    batch = face_batch(LABELS)
    with torch.no_grad():
        mean = method._classify(method.feature_map(batch.images))[1].mean(dim=0)
    method(batch)
    assert torch.allclose(centres.vectors, 0.5 * mean, atol=1e-4)


def test_stages_are_taken_by_their_stride(tiny_method):
    method = tiny_method("MultiAttention", "MODEL.FACE.ENCODER", "resnet10t", prepared=False)
    shapes = method.encoder.stage_shapes(64)
    assert [h for _, h, _ in shapes][-2:] == [2, 2]  # the last stage, and the map itself
    assert 64 / shapes[method._texture][1] == 4 and 64 / shapes[method._attention][1] == 16


# -- Face X-ray -------------------------------------------------------------------------------


def test_an_x_ray_is_the_boundary_of_the_mask():
    masks = torch.zeros(3, 40, 40, dtype=torch.bool)
    masks[0, 10:30, 12:28] = True
    masks[1, :, :20] = True
    found = boundary(masks, 0.05)
    soft = gaussian_filter1d(
        gaussian_filter1d(masks.numpy().astype(float), 2.0, axis=1, mode="nearest", radius=6),
        2.0, axis=2, mode="nearest", radius=6,
    )  # fmt: skip
    assert np.abs(found.numpy() - 4 * soft * (1 - soft)).max() < 1e-4
    assert found[0, 20, 20] < 0.01 and found[0, 0, 0] == 0  # within, and far outside
    assert found[0, 20, 11:13].max() > 0.95  # on the boundary
    assert found[1, :, 0].max() < 1e-6  # the crop's edge is none
    assert not found[2].any()


def test_the_class_is_read_off_the_x_ray_alone(tiny_method, face_batch):
    method = tiny_method("FaceXRay", prepared=False).eval()
    with torch.no_grad():
        crops = face_batch(LABELS).images
        x_ray = method.x_ray_logits(method.feature_map(crops)).sigmoid()
        assert x_ray.shape == (4, 16, 16)
        weight, bias = method.classifier.weight.item(), method.classifier.bias.item()
        expected = weight * x_ray.mean(dim=(1, 2)) + bias
        assert torch.allclose(method(crops), expected, atol=1e-6)


def test_only_known_masks_have_an_x_ray_loss(tiny_method, face_batch):
    method = tiny_method("FaceXRay")
    batch = face_batch(LABELS, valid=[True, True, False, False])
    batch.masks[3] = True  # not to be looked at
    one = method(batch).losses["loss_x_ray"]
    logits = method.x_ray_logits(method.feature_map(batch.images))[:2].double()
    x_rays = boundary(batch.masks[:2], 0.03).double()
    target = x_rays.unfold(1, 4, 4).unfold(2, 4, 4).mean(dim=(3, 4))
    entropy = -(target * logits.sigmoid().log() + (1 - target) * (-logits).sigmoid().log())
    assert one.item() == pytest.approx(100 * entropy.mean().item(), rel=1e-4)
    assert method(face_batch(LABELS, valid=False)).losses["loss_x_ray"] == 0


# -- RECCE ------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 0], [0, 1], [0, 0], [1, 1]])
def test_metric_loss_is_the_formula(labels):
    features = randn(len(labels), 4)

    def distance(a, b):
        return (1 - float(a @ b / (a.norm() * b.norm()))) / 2

    pairs = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j]
    within = [distance(features[i], features[j]) for i, j in pairs if labels[i] == labels[j] == 0]
    across = [distance(features[i], features[j]) for i, j in pairs if labels[i] < labels[j]]
    expected = sum(within) / max(len(within), 1) - sum(across) / max(len(across), 1)
    assert metric_loss(features, torch.tensor(labels)).item() == pytest.approx(expected, abs=1e-6)


def test_reasoning_is_the_formula():
    torch.manual_seed(0)
    module = BipartiteReasoning(3, 2)
    encoded, decoded = torch.randn(1, 3, 2, 2), torch.randn(1, 2, 2, 2)
    with torch.no_grad():
        found = module(encoded, decoded)[0].flatten(1)
        x, y = encoded[0].flatten(1), decoded[0].flatten(1)
        a, bias = module.of_encoder.weight.flatten(), module.of_encoder.bias
        b = module.of_decoder.weight.flatten()
        for i in range(4):
            scores = [float(a @ x[:, i] + bias + b @ y[:, j]) for j in range(4)]
            scores = [math.exp(s if s > 0 else 0.2 * s) for s in scores]
            gathered = sum(s / sum(scores) * y[:, j] for j, s in enumerate(scores))
            expected = x[:, i] + module.project.weight[:, :, 0, 0] @ gathered + module.project.bias
            assert torch.allclose(found[:, i], expected, atol=1e-5)


def test_only_reals_are_reconstructed(tiny_method, face_batch, train_step):
    method = tiny_method("RECCE", "MODEL.FACE.RECCE.NOISE", "0.0")
    assert method(face_batch([1, 1])).losses["loss_reconstruction"] == 0
    batch = face_batch([0, 1, 0, 1])
    x = method.preprocess(batch.images)
    picture = method._reconstructed(x)[2]
    assert picture.shape == x.shape
    expected = 0.1 * (picture - x)[batch.labels == 0].abs().mean().item()
    found = method(batch).losses["loss_reconstruction"].item()
    assert found == pytest.approx(expected, rel=1e-3)
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    for _ in range(25):
        last = train_step(method, optimizer, batch).losses["loss_reconstruction"].item()
    assert last < 0.8 * found


def test_an_encoder_s_stages_end_in_its_map():
    encoder = build_encoder("resnet10t").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stages = encoder.forward_stages(x)
        assert torch.equal(stages[-1], encoder.forward_map(x))
    assert [tuple(s.shape[1:]) for s in stages] == encoder.stage_shapes(64)
    small = build_encoder("SmallResNet").eval()
    assert len(small.forward_stages(x)) == 1


def test_every_competitor_is_a_method_with_a_configuration(request):
    from comics.config import load_config

    folder = request.config.rootpath / "configs" / "Face" / "Competitors"
    methods = {load_config(path).MODEL.FACE.METHOD for path in folder.glob("*.yaml")}
    assert methods == {
        "CrossEntropy", "FocalLoss", "CORE", "Meso", "SPSL", "SRMTwoStream", "F3Net",
        "MultiAttention", "FaceXRay", "RECCE",
    }  # fmt: skip
    sbi = load_config(folder / "SBI.yaml")
    assert sbi.INPUT.FACE.SELF_BLEND.ENABLED and sbi.INPUT.FACE.SELF_BLEND.REALS_ONLY
    with torch.device("meta"):
        assert build_face_method(sbi).crop_size == 380
