"""What the tutorial shows is what its commands print."""

from pathlib import Path

from tests.docs.tutorial import OUTPUT, outputs, steady


def test_outputs_are_those_of_the_page(tmp_path: Path) -> None:
    found = outputs(tmp_path)
    shown = {path.name: path.read_text(encoding="utf-8") for path in OUTPUT.glob("*.txt")}
    assert {name: steady(text) for name, text in found.items()} == {
        name: steady(text) for name, text in shown.items()
    }
