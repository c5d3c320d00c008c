"""The one way this project compiles a function: Numba, cached on disk, GIL released, exact unless asked."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, overload

import numba
from numba import config, types

F = TypeVar("F", bound=Callable[..., object])

CACHE_VARIABLE = "AMBI_CACHE_DIR"
"""Environment variable: where compiled kernels are kept instead of the user's cache folder."""

_CONSTANTS = ("tables.py", "layout.py", "state.py", "jit.py")
"""Modules that define no kernels but decide how they are compiled."""


@cache
def cache_folder() -> Path:
    """Folder of the compiled kernels of exactly this source code.

    Numba checks only the file that a function stands in, not those of the functions it calls, so that an
    upgrade could run stale code. A folder named after a hash of all kernel sources cannot be stale.
    """
    root = Path(__file__).parent
    # Numba keys its files by path: two installations must not take each other's for their own.
    # Code with bounds checks (NUMBA_BOUNDSCHECK=1) is other code.
    settings: Any = config
    versions = f"{numba.__version__} {platform.python_version()} {root} {settings.BOUNDSCHECK}"
    digest = hashlib.sha256(versions.encode())
    for source in sorted(root.rglob("*.py")):
        text = source.read_bytes()
        if b"\n@kernel" in text or source.name in _CONSTANTS:
            digest.update(text)
    name = f"kernels-{digest.hexdigest()[:12]}"
    if CACHE_VARIABLE in os.environ:
        bases = [Path(os.environ[CACHE_VARIABLE])]
    else:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        bases = [user / "ambi-rl", Path(tempfile.gettempdir()) / f"ambi-rl-{os.getuid()}"]
    for base in bases:
        folder = base / name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        # Compiled code is executed: do not take it from a folder that somebody else owns.
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    return Path(tempfile.mkdtemp(prefix="ambi-rl-"))


@overload
def kernel(function: F) -> F: ...


@overload
def kernel(*, fused: bool = False, allocates: bool = False) -> Callable[[F], F]: ...


def kernel(
    function: F | None = None, *, fused: bool = False, allocates: bool = False
) -> F | Callable[[F], F]:
    """Compile `function` on first use.

    Without fast-math, so that a result does not depend on the compiler's choices; with `nogil`, so that
    threads run kernels side by side. Arguments are arrays, records, scalars and NamedTuples of them.

    Args:
        function: What is compiled.
        fused: Let the compiler round a product and a sum once, as this machine does it best: for what need
            not be exact.
        allocates: The function makes arrays. Others work on memory that they are given, and compile without
            Numba's reference counts, which took a fifth of decoding's time.
    """
    if function is None:
        return partial(_compile, fused=fused, allocates=allocates)
    return _compile(function, fused=fused, allocates=allocates)


def _compile(function: F, *, fused: bool, allocates: bool) -> F:
    # Read when the function is decorated; the setting of other packages stays as it is.
    settings: Any = config
    others_folder = settings.CACHE_DIR
    settings.CACHE_DIR = str(cache_folder())
    fastmath: Any = {"contract", "nsz"} if fused else False
    try:
        # Numba's type hints do not know `_nrt`, which its own documentation uses.
        njit: Any = numba.njit
        compiled: Any = njit(
            cache=True, nogil=True, error_model="numpy", fastmath=fastmath, _nrt=allocates
        )(function)
    finally:
        settings.CACHE_DIR = others_folder
    if hasattr(compiled, "get_call_template"):  # Not when NUMBA_DISABLE_JIT is set.
        _ignore_literals(compiled)
    result: F = compiled
    return result


def _ignore_literals(dispatcher: Any) -> None:
    """Compile one version for all values of an argument.

    A constant in a call has a type of its own in Numba (`Literal[int](3)`), for which the callee would be
    compiled once more; that made the first use three times as slow.
    """
    original = dispatcher.get_call_template

    def get_call_template(args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> object:
        plain = {name: types.unliteral(kind) for name, kind in kws.items()}
        return original(tuple(types.unliteral(kind) for kind in args), plain)

    dispatcher.get_call_template = get_call_template
