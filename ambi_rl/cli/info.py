"""`ambi info`: what a file or a bundle says about itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from ambi_rl.cli import profiles
from ambi_rl.cli.guard import SOME_FAILED
from ambi_rl.cli.streams import read_input
from ambi_rl.codec.bundle import Bundle, parse_bundle
from ambi_rl.codec.bundle_file import SUFFIX
from ambi_rl.codec.container import FORMAT_VERSION, MAGIC, Section, read_container
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.errors import AmbiError, BundleError, NotAmbiFileError, explain

_MOST_SHOWN, _FEW_SHOWN = 64, 3
"""Longer lists than the first are cut to the second where a person reads them."""


def file_facts(data: bytes) -> dict[str, Any]:
    """What the header and the sections of a file say; JSON types only."""
    container = read_container(data)
    return {
        "kind": "file",
        "format_version": FORMAT_VERSION,
        "bytes": len(data),
        "width": container.width,
        "height": container.height,
        "colour": container.colour.name.lower(),
        "alpha": Section.ALPHA in container.sections,
        "orientation": container.orientation,
        "quality": container.quality,
        "step": container.step / STEP_SCALE,
        "restoration": container.restoration.name.lower(),
        "bits_per_pixel": round(8 * len(data) / (container.width * container.height), 4),
        "bundle_id": container.bundle_id,
        "planes_crc": f"{container.planes_crc:08x}",
        "sections": {kind.name.lower(): len(p) for kind, p in container.sections.items()},
    }


def bundle_facts(data: bytes, bundle: Bundle) -> dict[str, Any]:
    """What a bundle holds: its manifest and the shapes of its tensors; JSON types only."""
    groups = {
        "entropy": bundle.entropy,
        "policy": bundle.policy,
        "restoration": bundle.restoration,
    }
    return {
        "kind": "bundle",
        "bytes": len(data),
        "bundle_id": bundle.id,
        "has_policy": bool(bundle.policy),
        "has_restoration": bool(bundle.restoration),
        "tensors": {
            f"{group}/{name}": [str(tensor.dtype), *tensor.shape]
            for group, tensors in groups.items()
            for name, tensor in tensors.items()
        },
        "manifest": bundle.manifest,
    }


def facts_of(data: bytes, source: str) -> dict[str, Any]:
    """What a file or a bundle of any codec says about itself; JSON types only.

    Args:
        data: Of the file.
        source: Its name.

    Raises:
        AmbiError: It is neither, or cannot be used.
    """
    if data.startswith(MAGIC):
        return file_facts(data)
    other = profiles.facts(data)
    if other is not None:
        return other
    try:
        return bundle_facts(data, parse_bundle(data))
    except BundleError as error:
        if Path(source).suffix == SUFFIX:
            raise
        raise NotAmbiFileError(f"{source} is neither an ambi file nor a bundle") from error


def _joined(items: list[Any]) -> str:
    """Items on one line; of very many, such as the photographs of a training run, only the first few."""
    shown = items if len(items) <= _MOST_SHOWN else items[:_FEW_SHOWN]
    text = ", ".join(str(item) for item in shown)
    return text if shown is items else f"{text}, … ({len(items)} in all; --json has them)"


def _printable(value: object) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)
    )


def lines_of(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Aligned `name  value` lines; nested objects are indented.

    Text in a file is its writer's: what would act on a terminal, or is no character, is shown as an escape.
    """
    names = {name: _printable(name) for name in facts}
    width = max(map(len, names.values()), default=0)
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{names[name]}")
            lines += lines_of(value, indent + "  ")
        else:
            if isinstance(value, list):
                value = _joined(value)
            shown = "-" if value in ({}, "") else _printable(value)
            lines.append(f"{indent}{names[name]:<{width}}  {shown}")
    return lines


def info_command(sources: Sequence[str], *, as_json: bool) -> None:
    """Print the facts of files and bundles; of several one after the other, as JSON one object a line.

    Raises:
        NotAmbiFileError: the only one is neither.
        CorruptFileError: the only one is a damaged file.
        BundleError: the only one is a bundle that cannot be used.
        Exit: With 9 if some of several are.
    """
    if len(sources) == 1:
        facts = facts_of(read_input(sources[0]), sources[0])
        typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines_of(facts)))
        return
    errors = []
    for number, source in enumerate(sources):
        try:
            facts = facts_of(read_input(source), source)
        except (AmbiError, OSError) as error:
            message = explain(error)[0]
            errors.append(message if source in message else f"{source}: {message}")
            continue
        if as_json:
            typer.echo(json.dumps({"file": source} | facts))
        else:
            typer.echo("\n".join([*[""][: number > 0], source, *lines_of(facts, "  ")]))
    for message in errors:
        typer.echo(f"ambi: {message}", err=True)
    if errors:
        raise typer.Exit(SOME_FAILED)
