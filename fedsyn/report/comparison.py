"""What `compare` leaves for people to read: a Markdown table and plots."""

from pathlib import Path

from fedsyn.report import files, plots, tables


def write_comparison(directory: Path | str) -> list[Path]:
    """Write ``comparison.md``, ``comparison.png`` and, with curves, ``curves.png``.

    Parameters
    ----------
    directory : path
        Holds ``comparison.json``.

    Returns
    -------
    list of Path
        The files written, the Markdown first.

    Raises
    ------
    RunError
        If ``comparison.json`` is missing or malformed.
    """
    results = files.read_comparison(directory)
    what = results.scores.noun(results.headline).capitalize()
    figures = {
        "comparison.png": (what, plots.comparison_bars(results)),
        "curves.png": (f"{what} over rounds", plots.comparison_curves(results)),
    }
    text = tables.to_markdown(tables.comparison(results))
    written = [results.path / "comparison.md"]
    for name, (title, figure) in figures.items():
        if figure is None:
            continue
        path = results.path / name
        path.write_bytes(plots.png(figure))
        written.append(path)
        text += f"\n![{title}]({name})\n"
    written[0].write_text(text, encoding="utf-8")
    return written
