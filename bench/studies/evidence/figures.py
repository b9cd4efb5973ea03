"""The plots of the page, in the look of fedsyn's reports."""

from collections.abc import Sequence
from pathlib import Path

from fedsyn.report import plots
from studies.evidence import (
    baseline_figures,
    frontier,
    frontier_figures,
    setting_figures,
    studies,
)
from studies.trials.arithmetic import Row
from studies.trials.figures import save

CHANGES, LEVELS = ("pieces",), ("federations", "codes")  # studies, by what is drawn of them
TITLES = {
    studies.BASELINE_STUDY.name: baseline_figures.TITLES,
    frontier.NAME: frontier_figures.TITLES,
    **{name: {name: "What each setting changes"} for name in CHANGES},
    **{name: {name: "mAP and R@10 by setting"} for name in LEVELS},
}


def draw(rows: Sequence[Row], folder: Path, beginning: str) -> dict[str, str]:
    """Save what there are rows for; file names by what they show."""
    with plots.style():
        figures = {
            **baseline_figures.draw(rows),
            **frontier_figures.draw(rows),
            **{name: setting_figures.effects(rows, name) for name in CHANGES},
            **{name: setting_figures.levels(rows, name) for name in LEVELS},
        }
    return {
        name: save(figure, folder / f"{beginning}{name}.png")
        for name, figure in figures.items()
        if figure is not None
    }
