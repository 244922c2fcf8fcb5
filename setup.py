"""Maps the four folders onto the `aigrid.*` namespace; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("node", "protocol", "metagraph", "engines")

setup(
    packages=[
        name
        for folder in FOLDERS
        for name in (
            f"aigrid.{folder}",
            *(f"aigrid.{folder}.{sub}" for sub in find_packages(folder)),
        )
    ],
    package_dir={f"aigrid.{folder}": folder for folder in FOLDERS},
)
