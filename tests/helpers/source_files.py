"""The Python files of the packages."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("adapters", "pipelines", "eval")  # next to the core, "vidguide", which has links to them


def files(package: str) -> list[Path]:
    """Return the Python files of a package, without those behind links."""
    paths = (ROOT / package).rglob("*.py")
    return sorted(path for path in paths if not any(parent.is_symlink() for parent in path.parents))
