"""Distribution ``comics-forensics``: the package ``comics``. Imports nothing heavy."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"', (ROOT / "comics/__init__.py").read_text(encoding="utf-8"), re.M
).group(1)

EXTRAS = {
    "tensorboard": ["tensorboard"],
    "dev": ["hypothesis", "jsonschema", "psutil", "pytest", "pytest-xdist", "ruff", "tensorboard"],
}

setup(
    name="comics-forensics",
    version=VERSION,
    description="Find every face in a photo or video, say which are forged, and show where.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["comics", "comics.*"]),
    package_data={"comics": ["**/*.html", "**/*.css", "**/*.js"]},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.26",
        "pillow>=10.3",
        "opencv-python-headless>=4.10,<5",
        "av>=18,<19",
        "pycocotools>=2.0.8",
        "fvcore>=0.1.5.post20221221",
        "timm>=1.0.9",
        "safetensors>=0.4.5",
        "scipy>=1.11",
        "scikit-learn>=1.4",
        "threadpoolctl>=3.1",
        "matplotlib>=3.8",
        "tqdm>=4.66",
        "jinja2>=3.1",
    ],
    extras_require=EXTRAS,
)
