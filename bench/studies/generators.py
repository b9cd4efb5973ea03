"""Generators at equal leak: a critic's against Gaussians, with each constraint loss on and off.

    PYTHONPATH=bench .venv/bin/python -m studies.generators --data DIR [--sets glyphs emoji]
        [--seeds 5] [--first 0] [--only NAME ...] [--keys SECTION.KEY=VALUE ...]

Every setting is a federated run whose uploads are recorded and then attacked (`fedsyn.audit`): by
the distance to the nearest of 4,000 samples of the client's generator (``samples_*``), and by
whatever else is known of what the client has sent of its own (``own_*``, the strongest). Settings
see the same pairs, start and server, which ``--keys`` may change for all of them; what differs is
what a client sends of its own: ``own_bytes`` a client, in all rounds together.

One line is printed for each run and kept in ``bench/results/generators.jsonl``; runs that are
there are not made again.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

import fedsyn
import results
from fedsyn.audit import audit
from fedsyn.core.payload import nbytes
from fedsyn.core.wire import ONCE, OWN
from fedsyn.federation import config, records
from fedsyn.settings import presets
from fedsyn.settings.loading import over, read_tree
from fedsyn.synthesis.extension import SYNTHESIS
from machine import facts
from studies.evidence.studies import DATA
from studies.trials.arithmetic import Row
from studies.trials.command import add_data, available, check_data

SETS = ("glyphs", "emoji")
LOSSES = ("direct", "indirect", "jsd")
WEIGHT = 0.1
SAMPLES = "nearest synthetic sample"  # how the name of the attack begins
METRICS = ("map", "map50", "recall@1", "recall@10", "rsum")


def settings() -> Mapping[str, tuple[str, Sequence[str]]]:
    """By name a preset, or '', and keys of ``[synthesis]`` above it."""
    found: dict[str, tuple[str, Sequence[str]]] = {
        "off": ("", ["enabled=false"]),
        "default": ("", []),
    }
    for number in (1, 8, 16, 32):
        found[f"gaussian {number}"] = "", ["clusters=own", f"prototypes={number}"]
    critic: dict[str, Sequence[str]] = {
        "wgan": [],
        "wgan, last weights": ["judged_share=0"],
        "wgan, cold": ["warm_start=false"],
        "wgan, small": ["hidden=[16]"],
        "wgan of 8": ["condition=true", "prototypes=8"],
        "wgan of 8, projection": ["condition=true", "prototypes=8", "critic=projection"],
        "wgan of all": ["clusters=all", "last_round=1"],
        "wgan of all clusters": [
            *("clusters=all", "prototypes=24", "condition=true", "critic=projection"),
            *("steps=400", "last_round=6"),
        ],
        **{f"wgan, {loss}": [f"{loss}={WEIGHT}"] for loss in LOSSES},
        "wgan, all losses": [f"{loss}={WEIGHT}" for loss in LOSSES],
    }
    return (
        found | {name: ("wgan", keys) for name, keys in critic.items()} | {"paper": ("paper", [])}
    )


def main() -> None:
    """Make what is missing, a line a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser, DATA)
    names = [name for name in settings() if name != "paper"]
    parser.add_argument("--sets", nargs="+", choices=[*DATA], default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--only", nargs="+", choices=[*settings()], default=names, metavar="NAME")
    parser.add_argument("--keys", nargs="*", default=[], help="of all settings")
    parser.add_argument("--out", type=Path, default=results.FOLDER / "generators.jsonl")
    asked = parser.parse_args()
    check_data(parser, asked.data, DATA)
    torch.set_num_threads(1)
    known = results.read(asked.out) if asked.out.is_file() else {results.ABOUT: [facts()]}
    rows, data = known.setdefault("row", []), available(DATA, asked.data)
    for named in wanted(asked):
        if any(named.items() <= row.items() for row in rows):
            continue
        rows.append(named | measured(named, data[named["data"]]))
        results.write(asked.out, known)
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()


def wanted(asked: argparse.Namespace) -> Iterator[Row]:
    """What names each run."""
    for seed in range(asked.first, asked.first + asked.seeds):
        for data in asked.sets:
            for name in asked.only:
                keys = " ".join(asked.keys)
                yield {"data": data, "setting": name, "seed": seed, "keys": keys}


def measured(named: Row, data: Sequence[str]) -> Row:
    """One run, and what its uploads give away."""
    preset, own = settings()[named["setting"]]
    fixed = ("partition.alpha=0.1", f"run.seed={named['seed']}", "run.record_uploads=true")
    keys = [*data, *named["keys"].split(), *(f"synthesis.{key}" for key in own), *fixed]
    tree = over(presets.read(preset) if preset else {}, read_tree(None, keys))
    folder = Path(tempfile.mkdtemp(prefix="generators-"))
    try:
        began = time.perf_counter()
        summary = fedsyn.run(config.parse(tree), folder)
        seconds = time.perf_counter() - began
        row = found(summary, "") | found(summary["last"], "last_")
        row |= {"seconds": seconds, "own_bytes": own_bytes(folder)}
        return row | leak(audit(folder)["attacks"])
    finally:
        shutil.rmtree(folder)


def found(judged: Row, before: str) -> Row:
    """Metrics of a model: of the selected one, or of the last round's (``last_*``)."""
    metrics = judged["metrics"]
    return {before + name.replace("recall@", "r"): metrics[name] for name in METRICS}


def own_bytes(run: Path) -> float:
    """What a client has sent of synthesis that is its own, in all rounds, on average."""
    total, clients = 0, set()
    for path in sorted((run / records.UPLOADS).glob("*.safetensors")):
        sent = load_file(path)
        clients |= {name.split("/")[0] for name in sent}
        ours = (f"{SYNTHESIS.name}/{OWN}/", f"{SYNTHESIS.name}/{ONCE}{OWN}/")
        total += nbytes({k: v for k, v in sent.items() if k.partition("/")[2].startswith(ours)})
    return total / len(clients)


def leak(attacks: Sequence[Row]) -> Row:
    """How well members are told from strangers where sums are seen as sums."""
    seen = [one for one in attacks if one["view"] == "sums"]
    kinds = {
        "samples": [one for one in seen if one["name"].startswith(SAMPLES)],
        "own": [one for one in seen if one["of"] == "own"],
        "all": [one for one in seen if one["of"] == "all"],
    }
    found: Row = {}
    for name, ones in kinds.items():
        for short, key in (("auc", "auc"), ("tpr", "tpr_at_1pct_fpr")):
            found[f"{name}_{short}"] = max((one[key] for one in ones), default=None)
    return found


if __name__ == "__main__":
    main()
