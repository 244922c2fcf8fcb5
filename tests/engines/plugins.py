"""Packages that bring engines, as pip would leave them in a folder."""

from pathlib import Path


def install(folder: Path, package: str, code: str, **engines: str) -> None:
    """A package of one module; `engines` are its entry points: name -> attribute of the module."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {module}:{attribute}" for name, attribute in engines.items()]
    (about / "entry_points.txt").write_text("\n".join(["[aigrid.engines]", *lines, ""]))
