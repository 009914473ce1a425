import cv2
import torch

from comics.ops.colour import rgb_to_lab


def test_equals_opencv():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 40, 50), generator=generator).float()
    image[:, :4, :4] = torch.arange(16).view(4, 4)  # near black, where the curve is linear
    expected = cv2.cvtColor(image.permute(1, 2, 0).numpy() / 255, cv2.COLOR_RGB2Lab)
    found = rgb_to_lab(image)
    # OpenCV interpolates in tables
    torch.testing.assert_close(found, torch.from_numpy(expected).permute(2, 0, 1), rtol=0, atol=0.5)


def test_published_values_of_the_primaries():
    red_green_blue = 255 * torch.eye(3).view(3, 1, 3)
    expected = [[53.24, 87.73, 32.30], [80.09, -86.18, 79.19], [67.20, 83.18, -107.86]]
    found = rgb_to_lab(red_green_blue)[:, 0]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=0.02)


def test_greys_have_no_hue_and_their_known_lightness():
    grey = torch.tensor([0.0, 119.0, 255.0]).view(1, 1, 3).expand(3, 1, 3)
    lab = rgb_to_lab(torch.stack((grey, grey)))
    assert lab.shape == (2, 3, 1, 3)
    torch.testing.assert_close(lab[0, 0, 0], torch.tensor([0.0, 50.03, 100.0]), rtol=0, atol=0.02)
    assert lab[:, 1:].abs().max() < 0.02
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(rgb_to_lab(grey), lab[0])
