"""Limits of real processes lowered for a test, so that what takes a minute takes a second.

Python imports a module `sitecustomize` when it starts, from wherever PYTHONPATH says; commands,
nodes and their workers all keep PYTHONPATH. So each of them begins with other limits, and is
otherwise what everybody runs.
"""

import os
from pathlib import Path
from typing import Final

SITE: Final = """
from dataclasses import replace
from aigrid.protocol import limits
limits.LIMITS = replace(limits.LIMITS, **{changes!r})
"""


def lowered(folder: Path, **changes: float) -> dict[str, str]:
    """An environment in which Python processes have these limits; `folder` has to stay."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(SITE.format(changes=changes))
    others = filter(None, [os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": os.pathsep.join([str(folder), *others])}
