"""Photographs and the patches that episodes are made of."""

from ambi_rl.data.collection import (
    ACCESSES,
    Collection,
    DataSettings,
    Photograph,
    open_collection,
)
from ambi_rl.data.skipped import Skipped
from ambi_rl.data.source import (
    PatchSource,
    PhotographSource,
    list_photographs,
    read_photograph,
    shipped_folder,
    split_held_out,
)
from ambi_rl.data.stream import StreamSource

__all__ = [
    "ACCESSES",
    "Collection",
    "DataSettings",
    "PatchSource",
    "Photograph",
    "PhotographSource",
    "Skipped",
    "StreamSource",
    "list_photographs",
    "open_collection",
    "read_photograph",
    "shipped_folder",
    "split_held_out",
]
