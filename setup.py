"""Package metadata; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# planners/ and trainers/ stand at the root but import as autoseg.planners and autoseg.trainers: a plain top-level
# name would clash with a user's own folder of that name.
MAPPED = {"autoseg.planners": "planners", "autoseg.trainers": "trainers"}

setup(
    name="autoseg",
    version="0.1.0",
    description="Self-configuring segmentation of medical images: images and labels in, the best model out.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["autoseg", "autoseg.*"]), *MAPPED],
    package_dir={"autoseg": "autoseg", **MAPPED},
    package_data={"autoseg": ["py.typed"]},
    install_requires=[
        "torch>=2.6",
        "SimpleITK>=2.4",
        "numpy>=2.0",
        "scipy>=1.14",
        "scikit-image>=0.24",
        "batchgenerators>=0.25.1",
        "batchgeneratorsv2>=0.3.5",
        "acvl-utils>=0.2.5",
        "blosc2>=3.0",
        "connected-components-3d>=3.20",
        "tifffile>=2024.8",
        "threadpoolctl>=3.5",
        "filelock>=4.2",
        "typer>=0.15",
        "rich>=13.9",
        "matplotlib>=3.9",
    ],
    extras_require={
        "monai": [
            "monai>=1.5",
            "einops>=0.8",
        ],
        "openvino": ["openvino>=2025.0"],
        "ray": ["ray>=2.40"],
        "slurm": ["submitit>=1.5.2"],
        "dev": [
            "build>=1.2",
            "codespell>=2.3",
            "einops>=0.8",
            "hypothesis>=6.115",
            "monai>=1.5",
            "mypy>=1.13",
            "pre-commit>=4.0",
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
            "scipy-stubs>=1.14",
            "setuptools>=77",
            "submitit>=1.5.2",
            "surface-distance>=0.1",
            "wheel>=0.44",
        ],
    },
    entry_points={"console_scripts": ["autoseg=autoseg.cli.main:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
)
