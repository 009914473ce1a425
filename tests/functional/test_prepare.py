"""The preparers of single-face sets, on small trees of the layouts that they are for."""

import importlib.util
import json
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from comics.data.faces.checks import check_files
from comics.data.faces.manifest_files import read_manifest

ROOT = Path(__file__).resolve().parents[2]
FRAMES, SIDE = 6, 64
FACE = (16, 12, 44, 48)


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frames_of(seed, forged=False):
    """Smooth moving pictures; a forgery has another colour inside of the face."""
    coarse = np.random.default_rng(seed).integers(40, 200, (5, 5, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(coarse).resize((SIDE + FRAMES, SIDE), 3))
    clip = [np.ascontiguousarray(wide[:, i : i + SIDE]) for i in range(FRAMES)]
    for frame in clip if forged else ():
        frame[20:40, 22:38] = 255 - frame[20:40, 22:38]
    return clip


def encode(path, frames, crf=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def mask_frames():
    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    frame[20:40, 22:38] = 255
    return [frame] * FRAMES


def faceforensics(root):
    for level, crf in (("raw", 1), ("c23", 23), ("c40", 40)):
        for seed, name in enumerate(("071", "054")):
            encode(
                root / f"original_sequences/youtube/{level}/videos/{name}.mp4", frames_of(seed), crf
            )
        for method in ("Deepfakes", "NeuralTextures"):
            base = root / "manipulated_sequences" / method
            encode(base / level / "videos/071_054.mp4", frames_of(0, True), crf)
            encode(base / "masks/videos/071_054.mp4", mask_frames(), 1)
    (root / "train.json").write_text('[["071", "054"]]')


def dfd(root):
    encode(root / "original_sequences/actors/c23/videos/01__walk_down.mp4", frames_of(0))
    forged = root / "manipulated_sequences/DeepFakeDetection"
    encode(forged / "c23/videos/01_02__walk_down__ABCDEFGH.mp4", frames_of(0, True))


def celeb_df(root):
    encode(root / "Celeb-real/id0_0000.mp4", frames_of(0))
    encode(root / "Celeb-real/id1_0003.mp4", frames_of(1))
    encode(root / "YouTube-real/00170.mp4", frames_of(2))
    encode(root / "Celeb-synthesis/id0_id1_0000.mp4", frames_of(0, True))
    (root / "List_of_testing_videos.txt").write_text(
        "1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"
    )


def dfdc(root):
    encode(root / "part_0/aaa.mp4", frames_of(0))
    encode(root / "part_0/bbb.mp4", frames_of(0, True))
    entries = {
        "aaa.mp4": {"label": "REAL", "split": "train"},
        "bbb.mp4": {"label": "FAKE", "split": "train", "original": "aaa.mp4"},
    }
    (root / "part_0/metadata.json").write_text(json.dumps(entries))


def wilddeepfake(root):
    for part, forged in (("real_train", False), ("fake_test", True)):
        (root / part).mkdir(parents=True)
        with tarfile.open(root / part / "3.tar.gz", "w:gz") as tar:
            for number, frame in enumerate(frames_of(0, forged)):
                picture = root / "picture.png"
                Image.fromarray(frame).save(picture)
                tar.add(picture, f"./3/real/0/{10 * number}.png")
                picture.unlink()
    folder = root / "fake_train/7/fake/2"
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames_of(3, True)):
        Image.fromarray(frame).save(folder / f"{number}.png")


def deepfakemnist(root):
    encode(root / "real/id10001_a.mp4", frames_of(0))
    encode(root / "Fake/train/smile/id10001_b.mp4", frames_of(0, True))


# clips of the tree; (video, split, source, target, method, paired with) of some
SETS = {
    "faceforensics": (faceforensics, 12, [
        ("youtube/071", "train", "071", "071", "real", ""),
        ("Deepfakes/071_054", "train", "054", "071", "Deepfakes", "youtube/071"),
    ]),
    "dfd": (dfd, 2, [
        ("actors/01__walk_down", "test", "01", "01", "real", ""),
        ("DeepFakeDetection/01_02__walk_down__ABCDEFGH", "test", "02", "01", "DeepFakeDetection",
         "actors/01__walk_down"),
    ]),
    "celeb_df": (celeb_df, 4, [
        ("Celeb-real/id0_0000", "train", "id0", "id0", "real", ""),
        ("Celeb-synthesis/id0_id1_0000", "test", "id1", "id0", "Celeb-DF", "Celeb-real/id0_0000"),
        ("YouTube-real/00170", "test", "youtube00170", "youtube00170", "real", ""),
    ]),
    "dfdc": (dfdc, 2, [
        ("part_0/aaa", "train", "aaa", "aaa", "real", ""),
        ("part_0/bbb", "train", "", "aaa", "DFDC", "part_0/aaa"),
    ]),
    "wilddeepfake": (wilddeepfake, 3, [
        ("real_train/3/3/real/0", "train", "", "", "real", ""),
        ("fake_test/3/3/real/0", "test", "", "", "WildDeepfake", ""),
        ("fake_train/7/fake/2", "train", "", "", "WildDeepfake", ""),
    ]),
    "deepfakemnist": (deepfakemnist, 2, [
        ("real/id10001_a", "train", "id10001", "id10001", "real", ""),
        ("Fake/train/smile/id10001_b", "train", "id10001", "id10001", "DeepfakeMnist+", ""),
    ]),
}  # fmt: skip


def every_clip(root, box=FACE):
    """Boxes as any other detector would give them."""
    clips = [p.relative_to(root).as_posix() for p in root.rglob("*.mp4")]
    return {clip: {"0": [list(box)]} for clip in clips}


@pytest.mark.parametrize("name", SETS)
def test_layouts(tmp_path, name, capsys):
    make, clips, expected = SETS[name]
    root, output = tmp_path / "set", tmp_path / "faces"
    root.mkdir()
    make(root)
    arguments = [str(root), "--output", str(output), "--frames", "3", "--quiet"]
    if name != "wilddeepfake":  # its pictures are faces already
        (tmp_path / "boxes.json").write_text(json.dumps(every_clip(root)))
        arguments += ["--boxes", str(tmp_path / "boxes.json"), "--margin", "0"]
    module = load(f"prepare_{name}")
    assert module.main(arguments) == 0, capsys.readouterr().err
    manifest = read_manifest(output / "manifest.csv")
    assert check_files(manifest) == []
    assert len(manifest) == 3 * clips
    rows = {}
    for i in range(len(manifest)):
        columns = ("video", "split", "source", "target", "method")
        row = manifest[i]
        rows.setdefault(tuple(manifest.name(i, c) for c in columns), []).append((i, row))
        side = 64 if name == "wilddeepfake" else 36
        assert Image.open(row.path).size == (side, side)
    for video, split, source, target, method, pair in expected:
        found = rows[video, split, source, target, method]
        assert {int(manifest.frames[i]) for i, _ in found} == {1, 3, 5}
        for _, row in found:
            assert row.label == (method != "real")
            assert (f"/{pair}/" in row.paired_real) if pair else not row.paired_real
    # the same command again makes nothing again
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*.png")}
    assert module.main(arguments) == 0
    assert before == {p: p.stat().st_mtime_ns for p in output.rglob("*.png")}


def test_aligned_clips_share_frames_boxes_and_masks(tmp_path):
    faceforensics(tmp_path / "set")
    boxes = tmp_path / "boxes.json"
    content = {f"original_sequences/youtube/raw/videos/{n}.mp4": {
        "0": [[16, 12, 40, 44]], "5": [[20, 16, 44, 48]]} for n in ("071", "054")}  # fmt: skip
    boxes.write_text(json.dumps(content))  # the raw originals alone are looked at
    arguments = [str(tmp_path / "set"), "--output", str(tmp_path / "out"), "--boxes", str(boxes)]
    assert load("prepare_faceforensics").main([*arguments, "--margin", "0", "--quiet"]) == 0
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert len(manifest) == 12 * FRAMES
    for i in range(len(manifest)):
        row = manifest[i]
        assert Image.open(row.path).size == (36, 36)  # bounds of both boxes, made square
        if row.label:
            assert f"crops/{row.compression}/youtube/071/" in row.paired_real
            fake, real, mask = (
                np.array(Image.open(p)).astype(float) for p in (row.path, row.paired_real, row.mask)
            )
            difference, forged = np.abs(fake - real).mean(axis=2), mask[..., 0] > 0
            assert forged.sum() == pytest.approx(20 * 16, abs=40)
            assert difference[forged].mean() > 2 * difference[~forged].mean()


def test_all_faces_are_tracked_and_only_forged_ones_are_fakes(tmp_path):
    faceforensics(tmp_path / "set")
    boxes = tmp_path / "boxes.json"
    faces = [[2, 2, 14, 14], list(FACE), [48, 46, 62, 62]]
    boxes.write_text(json.dumps({k: {"0": faces} for k in every_clip(tmp_path / "set")}))
    arguments = [str(tmp_path / "set"), "--output", str(tmp_path / "out"), "--boxes", str(boxes)]
    arguments += ["--margin", "0", "--frames", "2", "--levels", "c23", "--quiet"]
    assert load("prepare_faceforensics").main(arguments) == 0
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    videos = {manifest.name(i, "video"): manifest[i].label for i in range(len(manifest))}
    reals = {f"youtube/{n}{s}": 0 for n in ("071", "054") for s in ("", "#1", "#2")}
    fakes = {f"{m}/071_054#1": 1 for m in ("Deepfakes", "NeuralTextures")}
    assert videos == reals | fakes  # the forged face is the second from the left


def test_bad_videos_are_reported_and_skipped(tmp_path, capsys):
    root = tmp_path / "set"
    celeb_df(root)
    whole = (root / "Celeb-real/id1_0003.mp4").read_bytes()
    (root / "Celeb-real/id1_0004.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "Celeb-real/id2_0000.mp4").write_text("no video")
    encode(root / "Celeb-real/id3_0000.mp4", frames_of(5)[:1])  # one frame is a clip
    encode(root / "Celeb-real/id4_0000.mp4", frames_of(5))  # no face
    boxes = every_clip(root)
    boxes["Celeb-real/id4_0000.mp4"] = {"0": []}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    arguments = [str(root), "--output", str(tmp_path / "out"), "--quiet", "--sampling", "random"]
    arguments += ["--frames", "2", "--boxes", str(tmp_path / "boxes.json")]
    module = load("prepare_celeb_df")
    assert module.main(arguments) == 3
    captured = capsys.readouterr()
    for words in ("id1_0004.mp4", "id2_0000.mp4", "id4_0000.mp4: no face found", "3 clips skipped"):
        assert words in captured.err + captured.out
    manifest = read_manifest(tmp_path / "out/manifest.csv")
    assert len(manifest) == 2 * 4 + 1
    # a clip that has been repaired is taken in by the next run
    (root / "Celeb-real/id2_0000.mp4").write_bytes(whole)
    assert module.main(arguments) == 3
    assert len(read_manifest(tmp_path / "out/manifest.csv")) == 2 * 5 + 1
    assert module.main([*arguments, "--margin", "0.3"]) == 2
    assert "other arguments" in capsys.readouterr().err


def test_whole_frames_and_worker_processes(tmp_path):
    dfdc(tmp_path / "set")
    module = load("prepare_dfdc")
    arguments = [str(tmp_path / "set"), "--frames", "2", "--quiet", "--size", "32"]
    assert module.main([*arguments, "--output", str(tmp_path / "a")]) == 0
    assert module.main([*arguments, "--output", str(tmp_path / "b"), "--workers", "1"]) == 0
    texts = [(tmp_path / name / "manifest.csv").read_text() for name in "ab"]
    assert texts[0] == texts[1]
    for path in (tmp_path / "a").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("faceforensics", lambda r: (r / "val.json").write_text('["071"]'), "val.json: not a list"),
        ("faceforensics", lambda r: (r / "val.json").write_text('[["071", "1"]]'), "071 is in"),
        ("celeb_df", lambda r: (r / "List_of_testing_videos.txt").unlink(), "is missing"),
        ("celeb_df", lambda r: (r / "List_of_testing_videos.txt").write_text("2 x"), "line 1"),
        ("dfdc", lambda r: (r / "part_0/metadata.json").write_text('{"a.mp4": {}}'), "a.mp4"),
        ("dfdc", lambda r: (r / "part_0/metadata.json").write_text("{"), "not JSON"),
        ("dfdc", lambda r: (r / "part_0/metadata.json").unlink(), "no metadata.json"),
        ("deepfakemnist", lambda r: encode(r / "x/a.mp4", frames_of(0)), "real or fake"),
        ("dfd", lambda r: encode(
            r / "manipulated_sequences/DeepFakeDetection/c23/videos/1.mp4", frames_of(0)
        ), "not named"),
    ],
)  # fmt: skip
def test_wrong_layouts_are_named(tmp_path, capsys, name, spoil, words):
    SETS[name][0](tmp_path)
    spoil(tmp_path)
    module = load(f"prepare_{name}")
    assert module.main([str(tmp_path), "--output", str(tmp_path / "out"), "--quiet"]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_empty_folders_and_bad_boxes(tmp_path, capsys):
    module = load("prepare_wilddeepfake")
    assert module.main([str(tmp_path), "--output", str(tmp_path / "out"), "--quiet"]) == 2
    assert "no clips found" in capsys.readouterr().err
    dfdc(tmp_path)
    (tmp_path / "boxes.json").write_text('{"a": {"0": [[5, 5, 1, 9]]}}')
    arguments = [str(tmp_path), "--output", str(tmp_path / "out"), "--quiet"]
    module = load("prepare_dfdc")
    assert module.main([*arguments, "--boxes", str(tmp_path / "boxes.json")]) == 2
    assert "boxes.json: not a file of boxes" in capsys.readouterr().err
    assert module.main([*arguments, "--detector", str(tmp_path / "none.safetensors")]) == 2
    assert "no model file" in capsys.readouterr().err
