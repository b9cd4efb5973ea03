"""What a node keeps between messages, and what it holds no longer."""

from pathlib import Path

from fedsyn.deployment.node import answer


def test_two_rounds_are_kept_and_no_more(two_rounds):
    folder = next(Path(two_rounds.held[100].state).iterdir())
    assert sorted(path.name for path in folder.glob("round-*")) == [
        "round-1.safetensors", "round-2.safetensors",
    ]  # fmt: skip


def test_a_node_that_lost_its_folder_says_so(two_rounds, asked, tmp_path):
    node = two_rounds.held[100].changed(state=str(tmp_path / "empty"))
    found = answer(node, "train", asked("train", round_number=2))
    assert found.facts["unprepared"]


def test_so_does_one_whose_features_are_damaged(two_rounds, asked):
    node = two_rounds.held[100]
    (path,) = Path(node.state).glob("*/features.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    found = answer(node, "train", asked("train", round_number=2))
    assert found.facts["unprepared"] and "features.safetensors" in found.facts["refused"]
