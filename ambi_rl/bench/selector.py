"""Codecs by what a command line calls them: a family and its options, `avif:tune=psnr,speed=6`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import features

from ambi_rl.bench.codecs import (
    Codec,
    ambi_codec,
    avif,
    heic,
    jpeg,
    jpeg2000,
    jpeg_xl,
    webp,
)
from ambi_rl.bench.superres_codecs import resampled, superres
from ambi_rl.codec.strategists import STRATEGISTS
from ambi_rl.errors import UsageError
from ambi_rl.superres.base_layer import BASES, SCALES
from ambi_rl.superres.resample import FILTERS

PEERS = (
    "jpeg",
    "jpeg:chroma=444",
    "jpeg2000",
    "webp",
    "avif:tune=psnr",
    "avif",
    "avif:chroma=420,tune=psnr",
    "avif:chroma=420",
    "jxl",
    "heic",
    "heic:chroma=444,tune=psnr",
)
"""Selectors of the peers that are measured unless others are named."""

Choices = tuple[str, ...]


class _Family(NamedTuple):
    """A maker of codecs, the values of its options, None for any text, and the feature of Pillow it needs."""

    make: Callable[..., Codec]
    options: Mapping[str, Choices | None]
    feature: str = ""


def _numbers(low: int, high: int) -> Choices:
    return tuple(map(str, range(low, high + 1)))


def _ambi(
    effort: str | None = None,
    strategist: str | None = None,
    bundle: str | None = None,
    restoration: str = "yes",
) -> Codec:
    if effort is not None and strategist is not None:
        raise UsageError("ambi: effort and strategist exclude each other; give only one of them")
    return ambi_codec(
        effort=5 if effort is None else int(effort),
        strategist=strategist,
        bundle=None if bundle is None else Path(bundle),
        restoration=restoration == "yes",
    )


def _avif(chroma: Any = "444", tune: Any = "default", speed: str = "4") -> Codec:
    return avif(chroma=chroma, tune=tune, speed=int(speed))


def _superres(bundle: str | None = None, base: str = "jpeg") -> Codec:
    if bundle is None:
        raise UsageError(
            "superres needs a bundle of the profile superres, as in superres:bundle=sr.ambic"
        )
    return superres(Path(bundle), base=base)


def _resampled(scale: str = "4", filter: str = "lanczos", base: str = "jpeg") -> Codec:  # noqa: A002 - the option
    return resampled(scale=int(scale), method=filter, base=base)


_CHROMA: Choices = ("420", "444")
_FAMILIES: dict[str, _Family] = {
    "ambi": _Family(
        _ambi,
        {
            "effort": _numbers(0, 9),
            "strategist": tuple(STRATEGISTS),
            "bundle": None,
            "restoration": ("yes", "no"),
        },
    ),
    "jpeg": _Family(jpeg, {"chroma": _CHROMA}),
    "jpeg2000": _Family(jpeg2000, {}, "jpg_2000"),
    "webp": _Family(
        lambda method="6": webp(method=int(method)), {"method": _numbers(0, 6)}, "webp"
    ),
    "avif": _Family(
        _avif,
        {
            "chroma": _CHROMA,
            "tune": ("default", "psnr", "ssim", "iq"),
            "speed": _numbers(0, 10),
        },
        "avif",
    ),
    "jxl": _Family(lambda effort="7": jpeg_xl(effort=int(effort)), {"effort": _numbers(1, 10)}),
    "heic": _Family(heic, {"chroma": _CHROMA, "tune": ("default", "psnr", "ssim")}),
    "superres": _Family(_superres, {"bundle": None, "base": BASES}),
    "resampled": _Family(
        _resampled, {"scale": tuple(map(str, SCALES)), "filter": FILTERS, "base": BASES}
    ),
}
FAMILIES: Choices = tuple(_FAMILIES)


def make_codec(selector: str) -> Codec:
    """The codec that a selector stands for.

    Args:
        selector: A family, and after a colon options of it: "jpeg", "webp:method=4",
            "ambi:effort=9,bundle=my.ambic". What an option leaves out is what the family is best at.

    Raises:
        UsageError: There is no such family, option or value, or this installation cannot write the format.
        AmbiError: A bundle cannot be used.
    """
    name, _, text = selector.partition(":")
    if name not in _FAMILIES:
        raise UsageError(
            f"there is no codec {name!r}; choose among {', '.join(FAMILIES)}{_near(name, FAMILIES)}"
        )
    family = _FAMILIES[name]
    options = _options(name, text)
    if family.feature and not features.check(family.feature):
        raise UsageError(f"this installation of Pillow cannot write {name}; leave that peer out")
    try:
        return family.make(**options)
    except ModuleNotFoundError as error:
        raise UsageError(
            f'peer {name} needs {error.name}, which is not installed: pip install "ambi-rl[bench]"'
        ) from error


def runs_kernels(selector: str) -> bool:
    """Whether a codec is the block codec, or has it inside: its kernels are to be compiled first."""
    family, _, options = selector.partition(":")
    return family == "ambi" or "base=ambi" in options.split(",")


def _options(name: str, text: str) -> dict[str, str]:
    """The options of a selector.

    Raises:
        UsageError: One of them does not exist or has a value that it cannot have.
    """
    known = _FAMILIES[name].options
    options = {}
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"{name} has no option {key!r}; {has}{_near(key, tuple(known))}")
        choices = known[key]
        if not equals or (choices is not None and value not in choices):
            wanted = "a value" if choices is None else f"one of {', '.join(choices)}"
            raise UsageError(f"{name}: {key} is {value!r}; give {wanted}, as in {name}:{key}=…")
        options[key] = value
    return options


def _near(word: str, words: Choices) -> str:
    found = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {found[0]}?" if found else ""
