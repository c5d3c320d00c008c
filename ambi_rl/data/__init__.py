"""Photographs and the patches that episodes are made of."""

from ambi_rl.data.source import (
    PhotographSource,
    list_photographs,
    read_photograph,
    shipped_folder,
    split_held_out,
)

__all__ = [
    "PhotographSource",
    "list_photographs",
    "read_photograph",
    "shipped_folder",
    "split_held_out",
]
