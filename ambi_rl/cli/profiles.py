"""Which codec a command is meant for: the profile of its bundle says it, or the first bytes of its file.

The block codec's commands are the usual ones and ask here first. Each other profile has a module of its own,
imported only when it is needed, with what `ProfileCommands` lists.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ambi_rl.cli.streams import STANDARD, look_at_stdin
from ambi_rl.errors import BundleError, UsageError

if TYPE_CHECKING:
    import typer

MODULES = {"features": "ambi_rl.cli.features", "superres": "ambi_rl.cli.superres"}
MAGICS = {b"\x8dAMF": "features", b"\x8dAMS": "superres"}
"""First bytes of files, here so that looking at them imports no codec."""
_MAGIC_BYTES = 4
_OF_ALL = ("inputs", "output", "bundle", "no_overwrite", "as_json", "quiet", "verbose")


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line.

    What is not among the options of a profile's module is as if it had not been given.

    Attributes:
        inputs: Names before -o, the target among them if there is no -o.
        output: What -o names.
        bundle: Bundle file.
        overwrite: Replace an existing target.
        as_json: Print the result as JSON.
        quiet: Print nothing else.
        verbose: Print more.
        max_pixels: The largest result to accept.
        quality: 1…100.
        base: Format of a base layer.
        strip: Leave out metadata.
        jobs: Files at a time, or threads for one.
        suffix: Ending, without its dot, of the pictures that a folder gets.
        full_names: Names of files keep the endings of their pictures.
        dry_run: Only say what would be done.
        manifest: Keep a manifest in the output folder.
        verify: Compare hashes with the manifest's.
    """

    inputs: list[str]
    output: str | None
    bundle: Path | None
    overwrite: bool
    as_json: bool
    quiet: bool
    verbose: bool
    max_pixels: int | None
    quality: float | None
    base: str | None
    strip: bool
    jobs: int | None
    suffix: str | None
    full_names: bool
    dry_run: bool
    manifest: bool
    verify: bool


class ProfileCommands(Protocol):
    """What a profile's module has.

    Attributes:
        ENCODE_OPTIONS: Names of the parameters of `ambi encode` that mean something to it, besides those that
            all profiles have.
        DECODE_OPTIONS: Likewise of `ambi decode`.
    """

    ENCODE_OPTIONS: Collection[str]
    DECODE_OPTIONS: Collection[str]

    def encode_command(self, request: Request) -> None:
        """`ambi encode`; a bundle is given."""

    def decode_command(self, request: Request) -> None:
        """`ambi decode`."""

    def facts(self, data: bytes) -> dict[str, Any]:
        """`ambi info` of a file or a bundle of the profile, JSON types only."""


def _commands(profile: str) -> ProfileCommands:
    if profile not in MODULES:
        raise BundleError(
            f"the bundle has the profile {profile[:60]!r}, which this program does not know; update ambi-rl"
        )
    return cast(ProfileCommands, import_module(MODULES[profile]))


def _profile_of_bundle(path: Path | None) -> str | None:
    """The profile of a bundle file; None if it is the block codec's, or cannot be told."""
    from ambi_rl.codec.bundle_file import BLOCK, read_profile

    # A pipe could be read only once.
    if path is None or not path.is_file():
        return None
    try:
        profile = read_profile(path)
    except BundleError:
        # Whoever loads it next says what is wrong with it.
        return None
    return None if profile == BLOCK else profile


def _first_bytes(source: str) -> bytes:
    if source == STANDARD:
        return look_at_stdin(_MAGIC_BYTES)
    try:
        if not Path(source).is_file():
            return b""
        with Path(source).open("rb") as file:
            return file.read(_MAGIC_BYTES)
    except OSError:
        return b""


def _request(ctx: typer.Context, profile: str, accepted: Collection[str]) -> Request:
    """The request, once it is sure that it has no option without a meaning.

    Raises:
        UsageError: It has one, or options that exclude each other.
    """
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        is_given = source is not None and source.name == "COMMANDLINE"
        if is_given and parameter.name not in (*_OF_ALL, *accepted):
            option = max((*parameter.opts, *parameter.secondary_opts), key=len)
            raise UsageError(
                f"{option} has no meaning for the profile {profile}, which the bundle or the file is of; "
                "leave it out"
            )
    values = ctx.params
    if values["quiet"] and values["verbose"]:
        raise UsageError("--quiet and --verbose exclude each other; give only one of them")
    return Request(
        inputs=list(values["inputs"]),
        output=values["output"],
        bundle=values["bundle"],
        overwrite=not values["no_overwrite"],
        as_json=values["as_json"],
        quiet=values["quiet"],
        verbose=values["verbose"],
        max_pixels=values.get("max_pixels"),
        quality=values.get("quality"),
        base=_value(values.get("base")),
        strip=values.get("strip", False),
        jobs=values.get("jobs"),
        suffix=_value(values.get("suffix")),
        full_names=values.get("full_names", False),
        dry_run=values.get("dry_run", False),
        manifest=values.get("manifest", False),
        verify=values.get("verify", False),
    )


def _value(choice: Enum | None) -> str | None:
    return None if choice is None else str(choice.value)


def encode(ctx: typer.Context) -> bool:
    """Run `ambi encode` if its bundle is of another profile than the block codec's.

    Args:
        ctx: Of the command.

    Returns:
        Whether it was.

    Raises:
        UsageError: An option has no meaning for that profile.
        BundleError: The profile is not known.
    """
    profile = _profile_of_bundle(ctx.params["bundle"])
    if profile is None:
        return False
    commands = _commands(profile)
    commands.encode_command(_request(ctx, profile, commands.ENCODE_OPTIONS))
    return True


def decode(ctx: typer.Context) -> bool:
    """Run `ambi decode` if its bundle, or else its first file, is of another profile than the block codec's.

    Args:
        ctx: Of the command.

    Returns:
        Whether one was.

    Raises:
        UsageError: An option has no meaning for that profile.
        BundleError: The profile is not known.
    """
    profile = _profile_of_bundle(ctx.params["bundle"])
    profile = profile or MAGICS.get(_first_bytes(ctx.params["inputs"][0]))
    if profile is None:
        return False
    commands = _commands(profile)
    commands.decode_command(_request(ctx, profile, commands.DECODE_OPTIONS))
    return True


def facts(data: bytes) -> dict[str, Any] | None:
    """What `ambi info` tells of a file or a bundle; None if it is the block codec's or neither.

    Raises:
        AmbiError: It is of another profile and cannot be used.
    """
    from ambi_rl.codec.bundle_file import BLOCK, read_manifest

    profile = MAGICS.get(data[:_MAGIC_BYTES])
    if profile is None:
        try:
            manifest = read_manifest(data)
        except BundleError:
            return None
        profile = manifest.get("profile", BLOCK) if isinstance(manifest, dict) else BLOCK
    if profile == BLOCK or not isinstance(profile, str):
        return None
    return _commands(profile).facts(data)
