"""`ambi encode` and `ambi decode` of one picture, whichever codec is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ambi_rl.cli.streams import (
    STANDARD,
    check_output,
    print_result,
    read_input,
    write_output,
)
from ambi_rl.codec.image_io import format_of_suffix
from ambi_rl.codec.threads import limit_threads
from ambi_rl.corpus.plan import PICTURE_SUFFIXES
from ambi_rl.corpus.settings import Decoding, Encoding, decode_details, decode_text
from ambi_rl.errors import UsageError


def _shown(name: str, standard: str) -> str:
    return standard if name == STANDARD else name


def _check_no_picture(target: str) -> None:
    """Refuse to encode over a picture: a pattern that the shell made two names of looks like IN OUT.

    Raises:
        UsageError: There is a picture of that name.
    """
    path = Path(target)
    if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
        raise UsageError(
            f"{target} is a picture and would be overwritten; to encode several pictures, name a "
            "folder with -o"
        )


def encode_file(
    source: str,
    target: str,
    settings: Callable[[], Encoding],
    *,
    overwrite: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Encode a picture file and say how it went.

    Args:
        source: Picture file, or `-`.
        target: File to write, or `-`.
        settings: Makes them, once the target is found to be possible.
        overwrite: Replace an existing target.
        threads: That may work on the picture; None for as many as there are cores.
        as_json: Print the result as JSON.
        quiet: Print nothing else.
        verbose: Print what the file consists of.
    """
    if target != STANDARD:
        check_output(source, target, overwrite=overwrite)
        _check_no_picture(target)
    limit_threads(threads)
    how = settings()
    result = how.encode(read_input(source), _shown(source, "stdin"))
    write_output(target, result.data, overwrite=overwrite)
    names = {"input": _shown(source, "stdin"), "output": _shown(target, "stdout")}
    facts = result.facts
    text = f"{names['input']} {facts['width']}x{facts['height']} -> {names['output']}: {how.text(facts)}"
    if verbose:
        text += f"\n{how.details(facts)}"
    if as_json or not quiet:
        print_result(target, text, names | facts, as_json=as_json)


def decode_file(
    source: str,
    target: str,
    settings: Callable[[str], Decoding],
    *,
    overwrite: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Decode a file to a picture file and say how it went.

    Args:
        source: File, or `-`.
        target: Picture to write, its format by its ending, or `-` for PNG on stdout.
        settings: Makes them from Pillow's name of the format, once the target is found to be possible.
        overwrite: Replace an existing target.
        threads: That may work on the picture; None for as many as there are cores.
        as_json: Print the result as JSON.
        quiet: Print nothing else.
        verbose: Print the picture's mode and metadata.
    """
    image_format = "PNG" if target == STANDARD else format_of_suffix(Path(target).suffix)
    check_output(source, target, overwrite=overwrite)
    limit_threads(threads)
    how = settings(image_format)
    result = how.decode(read_input(source))
    write_output(target, result.data, overwrite=overwrite)
    names = {"input": _shown(source, "stdin"), "output": _shown(target, "stdout")}
    text = f"{names['input']} -> {names['output']}: {decode_text(result.facts)}"
    if verbose:
        text += f"\n{decode_details(result.facts)}"
    if as_json or not quiet:
        print_result(target, text, names | result.facts, as_json=as_json)
