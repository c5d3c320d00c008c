"""Every exception that ambi-rl raises on purpose: one line that says what, where and how to mend it."""

INTERNAL_ERROR = 70
"""Exit code of what is no fault of the user's."""


class AmbiError(Exception):
    """Base of all errors a user can cause; the command line prints one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(AmbiError):
    """An argument or option has a value that cannot work (exit code 2)."""

    exit_code = 2


class UnsupportedImageError(AmbiError):
    """The picture has a mode, depth or size that the codec does not code (exit code 3)."""

    exit_code = 3


class ImageTooLargeError(UnsupportedImageError):
    """The picture, or the size a file's header claims, is over the codec's or the caller's limit."""


class NotAmbiFileError(AmbiError):
    """The data does not begin with the codec's magic number (exit code 4)."""

    exit_code = 4


class CorruptFileError(AmbiError):
    """The data is truncated, fails a checksum or says something impossible (exit code 4)."""

    exit_code = 4


class UnsupportedVersionError(AmbiError):
    """The file or bundle was written by a newer format version than this program reads (exit code 5)."""

    exit_code = 5


class UnknownBundleError(AmbiError):
    """The file was coded with a bundle that is not at hand (exit code 6)."""

    exit_code = 6


class BundleError(AmbiError):
    """The file cannot be used as a bundle: wrong kind, wrong shapes, or a wrong hash (exit code 7)."""

    exit_code = 7


class ConfigError(AmbiError):
    """A configuration key or value is wrong (exit code 2)."""

    exit_code = 2


class NotFiniteError(AmbiError):
    """Training met a number that is nan or infinite (exit code 8)."""

    exit_code = 8


def explain(error: BaseException) -> tuple[str, int]:
    """What to tell a user about an exception: one line, and the exit code it stands for."""
    code = 1
    if isinstance(error, AmbiError):
        text, code = str(error), error.exit_code
    elif isinstance(error, MemoryError):
        text = "out of memory; take a smaller picture or a machine with more"
    elif isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        text = f"{name}{error.strerror or error}"
    else:
        code = INTERNAL_ERROR
        text = (
            f"internal error, {type(error).__name__}: {error}; "
            "please report it with the output of AMBI_DEBUG=1"
        )
    return " ".join(text.split()), code
