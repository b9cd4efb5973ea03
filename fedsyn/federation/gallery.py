"""Queries with their top answers, for people to look at."""

import base64
import io
from typing import Any

import numpy as np
from torch import Tensor

from fedsyn import streams
from fedsyn.data.pairs import Pairs


def gallery(
    pairs: Pairs,
    rows: np.ndarray,  # [N] rows of the test pairs
    image: Tensor,  # [N, D] their embeddings
    text: Tensor,  # [N, D]
    seed: int,
    queries: int = 6,
    results: int = 10,
) -> dict[str, Any]:
    """``queries`` texts with their nearest pictures and as many pictures with their nearest texts.

    Queries with a label are preferred, because their answers can be marked.
    """
    order = streams.numpy_generator(seed, "gallery").permutation(len(rows))
    if pairs.label is not None:
        order = order[np.argsort(~_labelled(pairs.label[rows[order]]), kind="stable")]
    chosen = order[: 2 * queries]
    found = []
    for place, query in enumerate(chosen.tolist()):
        kind = "text" if place < queries else "image"
        asked, answers = (text, image) if kind == "text" else (image, text)
        score = answers @ asked[query]
        top = score.topk(min(results, len(rows))).indices.tolist()
        entry = _describe(pairs, rows[query]) | {"kind": kind}
        entry["results"] = [
            _describe(pairs, rows[hit])
            | {
                "score": float(score[hit]),
                "relevant": _share_label(pairs, rows[query], rows[hit]),
                "same_pair": hit == query,
            }
            for hit in top
        ]
        found.append(entry)
    return {"queries": found}


def _describe(pairs: Pairs, row: int) -> dict[str, Any]:
    caption = str(pairs.text[row]) if pairs.has_strings else f"pair {row}"
    picture = _png(pairs.image[row]) if pairs.has_pixels else None
    return {"caption": caption, "image": picture, "label": _label_name(pairs, row)}


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _labelled(label: np.ndarray) -> np.ndarray:
    return np.asarray(label >= 0 if label.ndim == 1 else label.any(axis=1))


def _label_name(pairs: Pairs, row: int) -> str:
    if pairs.label is None:
        return ""
    label = pairs.label[row]
    mine = [int(label)] if label.ndim == 0 else np.flatnonzero(label).tolist()
    return ", ".join(pairs.label_names[index] for index in mine if index >= 0)


def _share_label(pairs: Pairs, query: int, hit: int) -> bool:
    if pairs.label is None:
        return bool(query == hit)
    a, b = pairs.label[query], pairs.label[hit]
    return bool((a & b).any()) if a.ndim else bool(a == b and a >= 0)
