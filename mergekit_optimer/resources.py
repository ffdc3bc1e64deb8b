"""Where the card templates and the recipes lie: beside the package in a checkout, inside it once installed."""

from __future__ import annotations

from pathlib import Path

from mergekit_optimer.errors import OptimerError

_PACKAGE_DIR = Path(__file__).resolve().parent


def hub_cards_dir() -> Path:
    """Folder of the card templates.

    Raises:
        OptimerError: The installation is incomplete.
    """
    return _folder("hub_cards")


def recipes_dir() -> Path:
    """Folder of the recipes that come with the package.

    Raises:
        OptimerError: The installation is incomplete.
    """
    return _folder("recipes")


def _folder(name: str, package_dir: Path = _PACKAGE_DIR) -> Path:
    installed = package_dir / name
    if installed.is_dir():
        return installed
    # In site-packages a neighbour of that name would be somebody else's: only a checkout has a pyproject.toml there.
    checkout = package_dir.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / name).is_dir():
        return checkout / name
    raise OptimerError(f"This installation of mergekit-optimer lacks its {name} folder; install the package anew.")
