"""What every test may ask for."""

import os
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from adelaidet_reference import BASIS, FOLDER, load_components, load_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BESIDE = Path(__file__).resolve().parents[2] / "shared"
SHARED = Path(os.environ.get("COMICS_SHARED", BESIDE))  # any absent folder: as in a lone clone
FIXTURES = Path(__file__).parent / "fixtures"


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
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        # It refuses to run as root inside its sandbox, which is how containers run tests
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()
