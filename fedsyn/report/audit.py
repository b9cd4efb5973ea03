"""What an audit found, from ``audit.json``: a table, and the same in plain words."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsyn.errors import RunError
from fedsyn.report.files import Numbers
from fedsyn.report.tables import ABSENT, Grid

NAME = "audit.json"
RAW, SUMS = "raw", "sums"
ALL, WITHOUT = "combined", "combined, without synthesis"
VERDICTS = (  # by the AUC that they end at
    (0.55, "hardly anything can be told"),
    (0.65, "a guess is a little better than a coin's"),
    (0.8, "members can often be told"),
    (0.95, "members can mostly be told"),
    (math.inf, "members can be told almost surely"),
)
KINDS = ("own", "sum", "model", "all")


@dataclass(frozen=True)
class Attack:
    """One attack as it can be made in a view."""

    name: str
    of: str
    view: str
    numbers: Numbers

    @property
    def auc(self) -> float:
        """The area under its ROC curve; .5 where it is not known."""
        return self.numbers.get("auc", 0.5)


@dataclass(frozen=True)
class Audit:
    """The content of ``audit.json``.

    Attributes
    ----------
    attacks : tuple of Attack
    copies : mapping of str to float
        Of synthetic pairs; empty where there are none.
    clients, heard : int
        How many were asked about, and how many there were.
    not_attacked : tuple of str
        What was received of which no attack says anything.
    """

    attacks: tuple[Attack, ...]
    copies: Numbers
    clients: int
    heard: int
    not_attacked: tuple[str, ...]

    def find(self, name: str, view: str) -> Attack | None:
        """An attack in a view, where it was made."""
        return next((one for one in self.attacks if (one.name, one.view) == (name, view)), None)


def read(run: Path) -> Audit | None:
    """The audit of a run, from its directory; nothing where there is none.

    Raises
    ------
    RunError
        If ``audit.json`` is malformed.
    """
    path = run / NAME
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.read_text("utf-8"))
        attacks = tuple(
            Attack(str(row["name"]), str(row["of"]), str(row["view"]), _numbers(row))
            for row in tree["attacks"]
        )
        heard = int(tree.get("clients_heard") or len(tree["clients"]))
        beside = tuple(str(name) for name in tree.get("not_attacked") or ())
        return Audit(attacks, _numbers(tree["copies"]), len(tree["clients"]), heard, beside)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{str(path)!r} is malformed ({error}); run the audit again") from None


def table(audit: Audit) -> Grid:
    """A row an attack: its AUC, and members found at 1% false alarms, in each view."""
    names = sorted(
        dict.fromkeys((one.of, one.name) for one in audit.attacks), key=lambda key: _place(key[0])
    )
    views = (RAW, SUMS)
    rows = [
        (name, of, *(cell for view in views for cell in _cells(audit.find(name, view))))
        for of, name in names
    ]
    return Grid(
        header=("attack", "of", *(f"{what} {view}" for view in views for what in ("AUC", "found"))),
        rows=tuple(rows),
        title="Members or strangers?",
        note="Raw: by each client's uploads as they arrive; sums: by sums over clients alone, as "
        "masks leave them. AUC: .5 is a coin, 1 is certain; ± half of a 95% interval. Found: of "
        "100 members at 1% false alarms; by a coin 1.",
        strong=frozenset(place for place, (of, _) in enumerate(names) if of == "all"),
    )  # fmt: skip


def words(audit: Audit) -> list[str]:
    """What was found, in sentences: a paragraph each."""
    all_heard = audit.clients == audit.heard
    whose = f"the {audit.heard}" if all_heard else f"{audit.clients} of {audit.heard}"
    members, strangers = (
        max((one.numbers.get(kind, 0.0) for one in audit.attacks), default=0.0)
        for kind in ("members", "strangers")
    )
    count = len({one.name for one in audit.attacks if one.of != "all"})
    found = [
        f"{members:,.0f} pairs that {whose} clients trained on and {strangers:,.0f} pairs of the "
        f"same clients that nobody trained on were put to {count} attacks, which are to tell one "
        "from the other by what the server received."
    ]
    seen = {
        RAW: "Where each client's uploads are seen as they arrive",
        SUMS: "Where sums are seen only added up over clients, as masks would leave them",
    }
    found += [sentence for view, where in seen.items() for sentence in _view(audit, view, where)]
    found += _synthesis(audit)
    if audit.not_attacked:
        names = ", ".join(audit.not_attacked)
        found.append(f"No attack looks at these parts, of which this says nothing: {names}.")
    return found


def _view(audit: Audit, view: str, where: str) -> list[str]:
    """What can be told in a view, by all attacks and by the best of them."""
    together = audit.find(ALL, view)
    if together is None:
        return []
    single = [one for one in audit.attacks if one.view == view and one.of != "all"]
    best = max(single, key=lambda one: one.auc)
    rate = together.numbers.get("tpr_at_1pct_fpr", math.nan)
    verdict = next(words for most, words in VERDICTS if together.auc < most)
    known = max((one.numbers.get("recovered", 0.0) for one in single), default=0.0)
    exact = (
        f" {known:,.0f} training pairs can be read off what was sent, number by number."
        if known
        else ""
    )
    return [
        f"{where}, {verdict}: all attacks together reach AUC {together.auc:.2f} and find {rate:.0%}"
        f" of the training pairs at 1% false alarms. The strongest alone is “{best.name}”, AUC "
        f"{best.auc:.2f}.{exact}"
    ]


def _synthesis(audit: Audit) -> list[str]:
    """What synthesis adds, and what its samples copy."""
    found = []
    both, without = audit.find(ALL, SUMS), audit.find(WITHOUT, SUMS)
    if both and without and any(one.of == "own" for one in audit.attacks):
        found.append(
            f"Without what synthesis sends the latter is AUC {without.auc:.3f}: synthesis adds "
            f"{both.auc - without.auc:+.3f}."
        )
    if audit.copies:
        names = ("samples", "exact", "near_as_many", "near_strangers")
        samples, exact, near, beside = (audit.copies.get(name, math.nan) for name in names)
        share = f"{exact:.2%} are copies" if exact else "none is a copy"
        found.append(
            f"Of {samples:,.0f} synthetic pairs {share} of a training pair. {near:.0%} are nearer "
            "to one than 99 in 100 couples of training pairs are to each other; to one of as many "
            f"pairs that nobody trained on {beside:.0%} are as near."
        )
    return found


def _cells(attack: Attack | None) -> tuple[str, str]:
    if attack is None:
        return ABSENT, ABSENT
    low, high = (attack.numbers.get(f"auc_{end}", math.nan) for end in ("low", "high"))
    rate = attack.numbers.get("tpr_at_1pct_fpr", math.nan)
    half = f"{(high - low) / 2:.2f}".removeprefix("0")
    return f"{attack.auc:.2f}±{half}", f"{100 * rate:.0f}"


def _place(of: str) -> int:
    return KINDS.index(of) if of in KINDS else len(KINDS)


def _numbers(tree: Any) -> Numbers:
    if not isinstance(tree, Mapping):
        return {}
    return {
        key: float(value)
        for key, value in tree.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
