"""The look of pictures of a page."""

from pathlib import Path

from matplotlib.figure import Figure

from fedsyn.report import plots

WIDTH = 7.4  # inches: 8 points of text remain readable where the picture is 800 pixels wide


def save(figure: Figure, path: Path) -> str:
    """Save a picture; its file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plots.png(figure, dpi=130))
    return path.name
