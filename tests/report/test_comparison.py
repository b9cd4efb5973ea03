"""The files that a comparison leaves to read."""

import json
from collections.abc import Callable
from pathlib import Path

from fedsyn.report import write_comparison


def test_a_comparison_becomes_markdown_and_plots(
    write_comparison_file: Callable[..., Path],
) -> None:
    path = write_comparison_file()
    written = write_comparison(path)
    assert [file.name for file in written] == ["comparison.md", "comparison.png", "curves.png"]
    text = written[0].read_text(encoding="utf-8")
    assert "| fedprox | on |" in text
    for plot in written[1:]:
        assert f"({plot.name})" in text
        assert plot.read_bytes().startswith(b"\x89PNG")


def test_without_numbers_there_is_a_table_and_no_plot(tmp_path: Path) -> None:
    rows = [{"method": "fedavg", "objective": "info_nce", "synthesis": "on"}]
    (tmp_path / "comparison.json").write_text(json.dumps({"rows": rows}))
    assert write_comparison(tmp_path) == [tmp_path / "comparison.md"]
    assert "![" not in (tmp_path / "comparison.md").read_text(encoding="utf-8")
