"""Small manifests on disk."""

import csv

import numpy as np
import pytest
from PIL import Image

FRAMES, LEVELS = 3, ("c23", "c40")


def textured(seed, height=32, width=32):
    """[height, width, 3] uint8 with detail at several scales; lossless formats keep it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.normal(0, 6, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def write_rows(path, rows):
    """Any columns, in the order of the first row."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def picture():
    return textured


@pytest.fixture
def write_csv(tmp_path):
    def write(rows, name="faces.csv"):
        return write_rows(tmp_path / name, rows)

    return write


@pytest.fixture
def face_set(tmp_path):
    """Three identities, a real clip and two forgeries each, two frames levels; see the rows.

    A fake is its real frame with the middle inverted; c40 is the picture plus 1.
    """
    rows = []
    for person in range(3):
        for method in ("real", "blend", "swap"):
            for frame in range(FRAMES):
                real = textured(100 * person + frame)
                for level in LEVELS:
                    fake = real.copy()
                    if method != "real":
                        fake[8:24, 8:24] = 255 - fake[8:24, 8:24]
                    if level == "c40":
                        fake = np.clip(fake.astype(int) + 1, 0, 255).astype(np.uint8)
                    name = f"{method}_{person}_{frame}_{level}.png"
                    Image.fromarray(fake).save(tmp_path / name)
                    mask = np.zeros((32, 32), np.uint8)
                    mask[8:24, 8:24] = 255
                    Image.fromarray(mask).save(tmp_path / "mask.png")
                    forged = method != "real"
                    rows.append(
                        {
                            "path": name,
                            "video": f"{method}/{person}",
                            "frame": 10 * frame,
                            "label": "fake" if forged else "real",
                            "method": method if forged else "",
                            "source": f"id{(person + 1) % 3}"
                            if method == "swap"
                            else f"id{person}",
                            "target": f"id{person}",
                            "compression": level,
                            "paired_real": f"real_{person}_{frame}_{level}.png" if forged else "",
                            "mask": "mask.png" if forged else "",
                            "split": "test" if person == 2 else "train",
                            "cluster": person,
                        }
                    )
    return write_rows(tmp_path / "faces.csv", rows)
