#!/usr/bin/env python
"""Kill runs at random moments, start them again, and compare what they end with.

For each kind (detect, video, train, torchrun) a reference run goes through undisturbed; then runs
are killed by SIGKILL, each in a folder of its own, and started again with the same command until
one ends by itself. Each end must be the reference's:

  detect, video  results.json but for its member "run" (when, and in how many parts), results.csv,
                 files.csv and the tracks of videos, byte for byte
  train          weights bit for bit, metrics but for times; in every fourth restart the newest
                 checkpoint is cut in half first, so that the one before must serve
  torchrun       the same with two processes (gloo), of which one alone is killed, or the whole run

and no half-written file may be left. Half of the kills hit the process alone, so that its workers
are orphans; half the whole group. Pictures, videos and the training set are drawn here.

Commands are run in forked children of this process, which has imported torch once: otherwise most
kills would hit the import. torchrun starts its own.

Exit code: 0 all ends were the reference's; 1 some were not (each is named); 2 unusable arguments.

Examples:
  tools/lab/kill_runs.py --output kills --kills 100
  tools/lab/kill_runs.py --output kills --kinds train torchrun --kills 20 --seconds 900
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAIN_NET = ROOT / "tools" / "train_net.py"
KINDS = ("detect", "video", "train", "torchrun")
SHARES = {"detect": 0.35, "video": 0.25, "train": 0.25, "torchrun": 0.15}  # of the kills
EXIT_DIFFERENT, EXIT_ARGUMENTS = 1, 2
MOST_KILLS, MOST_SECONDS = 1000, 7200
PICTURES, SIDE, VIDEOS = 8, 320, 2
CLOCKS = ("seconds", "data_seconds")
DAMAGED_EVERY = 4  # restarts of a training
START_S = 1200.0  # for a run to end, at most; on a busy machine it may take many minutes
COMPARED = ("results.json", "results.csv", "files.csv")

CONFIG = """
MODEL:
  META_ARCHITECTURE: COMICSBlendMask
  DEVICE: cpu
  BACKBONE: {FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, NORM: GN, RES2_OUT_CHANNELS: 64}
  FPN: {OUT_CHANNELS: 16}
  FCOS: {NUM_CLS_CONVS: 1, NUM_BOX_CONVS: 1, NORM: none}
  BASIS_MODULE: {CONVS_DIM: 32, NUM_CONVS: 1, NORM: GN}
  BLENDMASK: {ATTN_SIZE: 4, BOTTOM_RESOLUTION: 8}
  COMICS: {PROPOSAL: {BANK_SIZE: 16, DIM: 8}, PIXEL: {SIZE: 8, BOUNDARY_MARGIN: 1}}
INPUT: {MIN_SIZE_TRAIN: [128], MAX_SIZE_TRAIN: 160, MIN_SIZE_TEST: 128, MAX_SIZE_TEST: 160}
DATALOADER: {NUM_WORKERS: 1}
SOLVER: {IMS_PER_BATCH: 2, BASE_LR: 0.001, WARMUP_ITERS: 2, MAX_ITER: 24, CHECKPOINT_PERIOD: 2}
LOG: {PERIOD: 1}
"""


@dataclass
class Tally:
    """What was seen of a kind."""

    kills: int = 0
    alone: int = 0  # of them, kills of a process without its workers
    damaged: int = 0  # checkpoints that were cut
    ends: int = 0  # runs that came to their end after kills
    reference_s: float = 0.0
    expected_s: float = 0.0  # of a run: the shortest that was seen, by which moments are drawn
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """How runs of a kind are started and compared.

    Attributes:
        start: (folder, log) -> the process id of a run that leads a group of its own.
        differences: (reference, folder) -> what differs, in words.
        training: whether checkpoints may be damaged between two starts.
        ranks: whether the run has processes of which one alone can be killed.
    """

    start: Callable[[Path, Path], int]
    differences: Callable[[Path, Path], list[str]]
    training: bool = False
    ranks: bool = False


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new or empty")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--kills", type=int, default=20, help=f"of all kinds, up to {MOST_KILLS}")
    parser.add_argument(
        "--seconds", type=float, default=1800, help=f"no kill after it, up to {MOST_SECONDS}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--weights", help="model file of detect and video (default: the shipped)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if not 1 <= options.kills <= MOST_KILLS or not 0 < options.seconds <= MOST_SECONDS:
        print("kill_runs.py: --kills or --seconds out of range", file=sys.stderr)
        return EXIT_ARGUMENTS
    if options.output.exists() and any(options.output.iterdir()):
        print(f"kill_runs.py: {options.output} is not empty", file=sys.stderr)
        return EXIT_ARGUMENTS
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # bit-equal sums need the same number of threads
    os.environ["TMPDIR"] = str(options.output / "temporary")
    (options.output / "temporary").mkdir()
    make_inputs(options.output / "inputs")
    rng = random.Random(options.seed)
    deadline = time.monotonic() + options.seconds
    whole = sum(SHARES[name] for name in options.kinds)
    tallies = {}
    for name in options.kinds:
        wanted = max(1, round(options.kills * SHARES[name] / whole))
        kind = kinds(options.output / "inputs", options.weights)[name]
        tallies[name] = torment(kind, options.output / name, wanted, deadline, rng)
        print(describe(name, tallies[name]), flush=True)
    content = {name: vars(tally) for name, tally in tallies.items()}
    (options.output / "kills.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return EXIT_DIFFERENT if any(tally.faults for tally in tallies.values()) else 0


def describe(name: str, tally: Tally) -> str:
    """A line about a kind."""
    text = (
        f"{name}: {tally.kills} kills ({tally.alone} of a process alone), {tally.ends} runs came "
        f"to their end, each as the reference ({tally.reference_s:.0f} s)"
    )
    if tally.damaged:
        text += f"; {tally.damaged} newest checkpoints were cut in half"
    return text if not tally.faults else f"{text}, BUT: " + "; ".join(tally.faults)


def make_inputs(folder: Path) -> None:
    """Drawn scenes with faces, videos that pan over them, and the scenes as a training set."""
    import cv2

    from comics.data.generate import Settings, generate_dataset
    from comics.data.generate_sources import SyntheticSource
    from comics.data.video import pan, write_clip

    counts = {"train": PICTURES, "val": 1, "test_dev": 1, "test_challenge": 1}
    source = SyntheticSource(SIDE)
    generate_dataset(folder / "set", source, Settings(), counts, progress=False)
    paths = sorted((folder / "set" / "images" / "train").iterdir())
    for name in ("pictures", "videos"):
        (folder / name).mkdir()
    for path in paths:
        shutil.copy(path, folder / "pictures" / path.name)
    pictures = [cv2.imread(str(path))[..., ::-1] for path in paths]
    wide = [picture for picture in pictures if picture.shape[1] >= picture.shape[0]] or pictures
    for number in range(VIDEOS):
        chosen = (wide[number:] + wide[:number])[:3]
        write_clip(folder / "videos" / f"{number}.mp4", pan(chosen, 8), fps=5)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")


def kinds(inputs: Path, weights: str | None) -> dict[str, Kind]:
    """How each kind is run."""
    model = ["--weights", weights] if weights else []
    annotations = f"['{inputs / 'set' / 'train.json'}']"

    def detect(room: str) -> Callable[[Path, Path], int]:
        def start(folder: Path, log: Path) -> int:
            words = ["detect", str(inputs / room), "--output", str(folder), "--device", "cpu"]
            return forked(log, lambda: command([*words, "--batch-size", "2", *model]))

        return start

    def words_of_training(folder: Path) -> list[str]:
        return [
            str(TRAIN_NET), "--config-file", str(inputs / "config.yaml"), "--runtime", "native",
            "--resume", "OUTPUT_DIR", str(folder), "DATASETS.TRAIN", annotations,
            "DATASETS.VAL", "[]",
        ]  # fmt: skip

    def train(folder: Path, log: Path) -> int:
        return forked(log, lambda: script(words_of_training(folder)))

    def torchrun(folder: Path, log: Path) -> int:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [sys.executable, *launcher, *words_of_training(folder)],
                stdout=file, stderr=file, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        return process.pid

    return {
        "detect": Kind(detect("pictures"), result_differences),
        "video": Kind(detect("videos"), result_differences),
        "train": Kind(train, training_differences, training=True),
        "torchrun": Kind(torchrun, training_differences, training=True, ranks=True),
    }


def command(words: list[str]) -> int:
    """``comics`` with these words."""
    from comics.cli import main as comics_main

    return comics_main(words)


def script(words: list[str]) -> int:
    """A script as the main program."""
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def forked(log: Path, work: Callable[[], int]) -> int:
    """The process id of a child, the leader of a group, that does the work and ends."""
    import torch

    import comics.engine.train
    import comics.runs.run  # noqa: F401  (imported once, for all children)

    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        torch.set_num_threads(1)
        code = work()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def torment(kind: Kind, folder: Path, wanted: int, deadline: float, rng: random.Random) -> Tally:
    """Kill and restart runs until so many kills were seen, or the time is up."""
    tally = Tally()
    folder.mkdir()
    reference = folder / "reference"
    begun = time.monotonic()
    code = end_of(kind.start(reference, folder / "reference.log"), START_S)
    tally.reference_s = tally.expected_s = time.monotonic() - begun
    if code != 0:
        tally.faults.append(f"the reference run ended with {code}, see {folder}/reference.log")
        return tally
    number = 0
    while tally.kills < wanted and time.monotonic() < deadline and not tally.faults:
        number += 1
        place, log = folder / f"run{number:03d}", folder / f"run{number:03d}.log"
        if one_run(kind, place, log, tally, wanted, deadline, rng):
            tally.ends += 1
            found = kind.differences(reference, place) + leftovers(place)
            tally.faults += [f"{place.name}: {fault}" for fault in found]
            if not found:
                shutil.rmtree(place)
    return tally


def one_run(
    kind: Kind,
    place: Path,
    log: Path,
    tally: Tally,
    wanted: int,
    deadline: float,
    rng: random.Random,
) -> bool:
    """Start a run again and again, killing it, until it ends; whether it ended well."""
    restarts = 0
    while True:
        process = kind.start(place, log)
        may_kill = tally.kills < wanted and time.monotonic() < deadline and restarts < 8
        moment = rng.uniform(0.1, 0.9) * tally.expected_s if may_kill else START_S
        begun = time.monotonic()
        code = end_of(process, moment)
        if code == 0:
            if not restarts:
                tally.expected_s = min(tally.expected_s, time.monotonic() - begun)
            return True
        if code is not None:
            tally.faults.append(f"{place.name}: ended with {code}, see {log}")
            return False
        if not may_kill:
            kill_group(process)
            tally.faults.append(f"{place.name}: no end within {START_S:g} s")
            return False
        alone = rng.random() < 0.5
        kill(process, alone, kind.ranks, rng)
        tally.kills += 1
        tally.alone += alone
        restarts += 1
        if kind.training and restarts % DAMAGED_EVERY == 0:
            tally.damaged += damage_newest(place)


def end_of(process: int, seconds: float) -> int | None:
    """Exit code of a child, or None if it still runs after that time."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.02)


def kill(process: int, alone: bool, ranks: bool, rng: random.Random) -> None:
    """SIGKILL to a process, or to all of its group; of a distributed run, alone means one rank."""
    victims = children(process) if ranks and alone else []
    if victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(victims), signal.SIGKILL)
        end_of(process, START_S)  # the launcher ends the others, and itself
    elif alone and not ranks:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return
    kill_group(process)


def kill_group(process: int) -> None:
    """SIGKILL to a group of processes, and to the groups that torchrun makes of its ranks."""
    ranks = children(process)
    for group in (process, *ranks):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)
    # Until they are gone they hold the folder, and the next run would rightly refuse to start
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        time.sleep(0.02)


def children(process: int) -> list[int]:
    """Processes that a process has started, as Linux tells."""
    try:
        return [
            int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    except OSError:
        return []


def damage_newest(folder: Path) -> int:
    """Cut the newest checkpoint in half where there is one before it; how many were cut."""
    found = sorted(folder.glob("checkpoint_*.pt"))
    if len(found) < 2:
        return 0
    os.truncate(found[-1], found[-1].stat().st_size // 2)
    return 1


def _content(path: Path) -> bytes:
    """What must be the same after kills."""
    if path.name != "results.json":
        return path.read_bytes()
    document = json.loads(path.read_text(encoding="utf-8"))
    document.pop("run", None)
    return json.dumps(document).encode("utf-8")


def result_differences(reference: Path, folder: Path) -> list[str]:
    """Files of results that are not the same bytes."""
    names = [*COMPARED, *(p.relative_to(reference) for p in reference.glob("videos/*.json"))]
    found = []
    for name in map(str, names):
        path = folder / name
        if not path.exists():
            found.append(f"{name} is missing")
        elif _content(path) != _content(reference / name):
            found.append(f"{name} differs")
    return found


def training_differences(reference: Path, folder: Path) -> list[str]:
    """Tensors, and lines of metrics, that are not the same."""
    import torch

    from comics.modeling.weights import read_weights

    name = "model_final.safetensors"
    if not (folder / name).exists():
        return [f"{name} is missing"]
    one, other = read_weights(reference / name).state, read_weights(folder / name).state
    found = [f"{key} differs" for key in one if not torch.equal(one[key], other[key])]
    if one.keys() != other.keys():
        found.append("other tensors")
    if metrics(reference) != metrics(folder):
        found.append("metrics.jsonl differs")
    return found[:3]


def metrics(folder: Path) -> list[dict]:
    """Lines of metrics.jsonl without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCKS} for line in lines]


def leftovers(folder: Path) -> Sequence[str]:
    """Half-written files that are still there after a run that ended."""
    kept = (".lock", ".comics")
    names = [p.relative_to(folder) for p in folder.rglob(".*") if p.name not in kept]
    return [f"left: {name}" for name in names]


if __name__ == "__main__":
    sys.exit(main())
