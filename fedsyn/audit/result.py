"""What an audit says: a row an attack and view, over clients and of each."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from fedsyn.audit.attack import Attack, View
from fedsyn.audit.subjects import Subject
from fedsyn.privacy.copies import Copies
from fedsyn.privacy.power import Scores, auc, power, tpr

Row = dict[str, Any]
ROUNDING = 1e-4  # of the mean length of a pair


def rows(
    attacks: Sequence[Attack], subjects: Sequence[Subject], seed: int
) -> tuple[list[Row], list[Row]]:
    """Of the attacks that have scores: over clients, one a view, and of each client."""
    by_client: dict[int, list[Row]] = {one.client: [] for one in subjects}
    everywhere = []
    for attack in attacks:
        scores = {
            one.client: one.scores(attack.scores[one.client])
            for one in subjects
            if one.client in attack.scores
        }
        if not scores:
            continue
        found = _over_clients(scores, seed)
        if attack.distance:
            found["recovered"] = sum(
                _recovered(one, scores[one.client]) for one in subjects if one.client in scores
            )
        for view in attack.views:
            everywhere.append(_named(attack, view) | found)
        for client, own in scores.items():
            mine = {"auc": auc(own), "tpr_at_1pct_fpr": tpr(own)}
            by_client[client] += [_named(attack, view) | mine for view in attack.views]
    clients = [
        {
            "client": one.client,
            "members": one.members,
            "strangers": one.strangers,
            "attacks": by_client[one.client],
        }
        for one in subjects
    ]
    return everywhere, clients


def _named(attack: Attack, view: View) -> Row:
    return {"name": attack.name, "of": attack.of, "view": view}


def _over_clients(scores: Mapping[int, Scores], seed: int) -> Row:
    found = power(scores, seed)
    return {
        "auc": found.auc,
        "auc_low": found.auc_low,
        "auc_high": found.auc_high,
        "auc_pooled": found.auc_pooled,
        "tpr_at_1pct_fpr": found.tpr,
        "tpr_low": found.tpr_low,
        "tpr_high": found.tpr_high,
        "tpr_mean": found.tpr_mean,
        "tpr_chance": found.tpr_chance,
        "members": found.members,
        "strangers": found.strangers,
        "clients": len(scores),
    }


def _recovered(subject: Subject, scores: Scores) -> int:
    """How many members are what was sent, but for rounding."""
    length = float(subject.pairs.double().norm(dim=-1).mean())
    return int((scores.members >= -ROUNDING * length).sum())


def copied(found: Mapping[int, Copies]) -> Row | None:
    """Means over clients of what there are of copies; nothing where nobody has a generator."""
    if not found:
        return None
    every = [asdict(one) for one in found.values()]
    means = {one.name: sum(row[one.name] for row in every) / len(every) for one in fields(Copies)}
    return means | {"samples": sum(row["samples"] for row in every), "clients": len(every)}
