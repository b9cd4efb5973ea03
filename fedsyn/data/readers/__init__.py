"""What reads files of pairs; one table, a line a form of files, the default first."""

from fedsyn.data.readers.base import Reader
from fedsyn.settings.plugins import Table

READERS = Table(
    "reader",
    "data.reader",
    Reader,
    "fedsyn.data.readers.by_ending:AUTO",
    "fedsyn.data.readers.npz:NPZ",
    "fedsyn.data.readers.matlab:MAT",
    "fedsyn.data.readers.hdf5:HDF5",
    "fedsyn.data.readers.parquet:PARQUET",
    "fedsyn.data.readers.csv:CSV",
    "fedsyn.data.readers.official:OFFICIAL",
)
