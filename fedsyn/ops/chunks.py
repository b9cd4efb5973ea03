"""Rows in pieces, so that the references' memory is bounded."""

from collections.abc import Iterator

# Elements of the largest intermediate result: what fits a cache, or what fills a GPU.
CHUNK = {"cpu": 2**16, "cuda": 2**24}


def chunks(rows: int, elements_per_row: int, device: str, most: int = 0) -> Iterator[slice]:
    """Slices that cover the rows and hold about ``most`` elements, at least one row each.

    By default as many as ``CHUNK`` has for the device.
    """
    size = max((most or CHUNK[device]) // max(elements_per_row, 1), 1)
    return (slice(start, start + size) for start in range(0, rows, size))
