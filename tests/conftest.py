"""What every test may ask for: small models by name, every registered name, a browser.

Suites of what holds for every entry of a table take ``any_detector``, ``mask_detector`` or
``face_method`` as an argument: a new entry appears in all of them by being registered.
"""

import contextlib
import os
from functools import cache
from pathlib import Path

import headless
import hypothesis
import pytest
import torch
import warm_start
from adelaidet_reference import BASIS, FOLDER, load_components, load_model
from headless import Headless

from comics.config import load_config

# Busy machines are slow: no example of Hypothesis fails for its time
hypothesis.settings.register_profile("comics", deadline=None)
hypothesis.settings.load_profile("comics")

BESIDE = Path(__file__).resolve().parents[2] / "shared"
SHARED = Path(os.environ.get("COMICS_SHARED", BESIDE))  # any absent folder: as in a lone clone
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session", autouse=True)
def _warm_starts():
    """Tools start in a fraction of the time; see tests/processes/warm_start.py."""
    with warm_start.installed():
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference numbers and samples beside the checkout; the test is skipped where absent."""
    if not SHARED.is_dir():
        pytest.skip("reference material (../shared) is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def evaluation_cases() -> Path:
    """Ground truth, results and the official tools' numbers; they ship with the tests."""
    return FIXTURES / "eval"


class AdelaiDet:
    """AdelaiDet's numbers: the full recordings where ../shared has them, else what ships."""

    def __init__(self, full: Path) -> None:
        self.full = full
        self.complete = full.is_dir()

    @cache  # noqa: B019  one object for the session
    def model(self, name: str) -> dict:
        if self.complete:
            return torch.load(self.full / f"{name}.pt", weights_only=True)
        return load_model(name)

    @cache  # noqa: B019
    def components(self) -> dict:
        if self.complete:
            return torch.load(self.full / "components.pt", weights_only=True)
        return load_components()

    def basis(self, sigmoid: bool = True) -> Path:
        """MEInst's parameter file."""
        return (self.full if self.complete else FOLDER) / BASIS.format(sigmoid)


@pytest.fixture(scope="session")
def adelaidet() -> AdelaiDet:
    return AdelaiDet(SHARED / "fixtures" / "adelaidet")


@pytest.fixture(scope="session")
def components(adelaidet) -> dict:
    """AdelaiDet's small numeric blocks: inputs and outputs."""
    return adelaidet.components()


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, driven by Playwright; the test is skipped where either is absent."""
    playwright = pytest.importorskip("playwright.sync_api")
    if headless.CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver, contextlib.closing(Headless(driver)) as launched:
        yield launched


def pytest_xdist_auto_num_workers():
    """One more than cores: tests wait for processes, browsers and pauses."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """A test whose browser hung and was killed runs once more."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=[headless.KILLED]))


@pytest.fixture(scope="session", autouse=True)
def _pytorch_and_no_cache(tmp_path_factory):
    """PyTorch unless a test asks for another runtime; nothing is kept beyond the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMICS_RUNTIME", "torch")
        patch.setenv("COMICS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


# --- small models ------------------------------------------------------------------------------

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
# What a detector needs besides, plain and as its COMICS variant: "KEY: VALUE" lines of its own file
TINY_FOLDER = FIXTURES / "tiny"
# A model of random weights that finds faces, in small pictures
FINDING = [
    "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "BN",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.FPN.OUT_CHANNELS", "32",
    "MODEL.FCOS.NUM_CLS_CONVS", "1", "MODEL.FCOS.NUM_BOX_CONVS", "1",
    "MODEL.FCOS.PRIOR_PROB", "0.3", "MODEL.FCOS.POST_NMS_TOPK_TEST", "10",
    "MODEL.BASIS_MODULE.CONVS_DIM", "16", "MODEL.BASIS_MODULE.NUM_CONVS", "1",
    "MODEL.BLENDMASK.ATTN_SIZE", "7", "MODEL.BLENDMASK.BOTTOM_RESOLUTION", "28",
    "MODEL.COMICS.PROPOSAL.BANK_SIZE", "8",
    "MODEL.COMICS.FEA.RESIDUAL", "True",  # what multiplies alone halves small random features
    "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96", "TEST.SCORE_THRESH", "0.05",
]  # fmt: skip


def words_of(name: str) -> list[str]:
    """KEY VALUE pairs of a tiny model of that architecture."""
    path = TINY_FOLDER / f"{name.removeprefix('COMICS')}.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    own = [word for line in lines for word in line.split(": ", 1)]
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


@pytest.fixture(scope="session")
def finding_config():
    """Function: name of an architecture and further keys and values to a configuration whose model
    finds faces with random weights.
    """

    def config(name: str, *overrides: str):
        return load_config(overrides=[*FINDING, "MODEL.META_ARCHITECTURE", name, *overrides])

    return config


# --- every registered name -----------------------------------------------------------------------


ARGUMENTS = ("any_detector", "mask_detector", "longest_training", "face_method")


def registered(argument: str) -> list[str]:
    """The names that an argument of that name stands for."""
    import comics.modeling.build
    import comics.modeling.faces  # noqa: F401
    from comics.modeling.detectors.base import Detector
    from comics.registry import DETECTORS, FACE_METHODS

    if argument == "face_method":
        return sorted(name for name, _ in FACE_METHODS)
    plain = sorted(name for name, _ in DETECTORS)
    masked = [
        name
        for name in plain
        if DETECTORS.get(name).roi_mask_features is not Detector.roi_mask_features
    ]
    if argument == "longest_training":
        return [f"COMICS{name}" if name in masked else name for name in plain]
    trained = masked if argument == "mask_detector" else plain
    return [*plain, *(f"COMICS{name}" for name in trained)]


def pytest_generate_tests(metafunc):
    """Give a test every registered name, once each.

    ``any_detector``: plain and as COMICS variants; ``mask_detector``: the same without the COMICS
    variants of detectors that have no masks, which cannot be trained with both contrasts;
    ``longest_training``: the COMICS variant, which trains all that the plain one trains, where
    there is one; ``face_method``. A module's ``QUICK`` names those that are not slow.
    """
    quick = getattr(metafunc.module, "QUICK", None)
    for argument in set(ARGUMENTS) & set(metafunc.fixturenames):
        names = registered(argument)
        marks = [[] if quick in (None, name) else [pytest.mark.slow] for name in names]
        metafunc.parametrize(
            argument, [pytest.param(n, marks=m) for n, m in zip(names, marks, strict=True)]
        )
