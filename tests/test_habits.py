"""What the package promises of itself."""

from importlib import metadata, resources
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_package_ships_its_types_and_its_licence():
    assert (resources.files("fedsyn") / "py.typed").is_file()
    about = metadata.metadata("fedsyn")
    assert about["License-Expression"] == "Apache-2.0"
    assert about.get_all("License-File") == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
