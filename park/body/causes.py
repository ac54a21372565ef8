"""The one-line cause of an error in user code, with a hint where its reason is known."""

from __future__ import annotations

import platform

from park.errors import UnitError, in_words

#: Characters of the line that says why a unit failed, at most.
MAX_CAUSE_CHARACTERS = 500


def one_line(error: BaseException) -> str:
    """The cause of *error*, and a hint."""
    if isinstance(error, UnitError):
        return error.cause
    return in_words(error) + hint(error)


def hint(error: BaseException) -> str:
    """The remedy for an error that comes of travelling, because this machine lacks a file or module; else ""."""
    if isinstance(error, ModuleNotFoundError):
        return f" on {platform.node()}: install it there, or define what it holds in the script itself"
    missing = isinstance(error, FileNotFoundError) and error.filename is not None
    if missing or (isinstance(error, OSError) and any(word in str(error) for word in _LIBRARY)):
        return (
            f" on {platform.node()}{_opener(error)}: only its path has travelled. Put the file there, or let the code "
            "carry what it reads, or make it anew where it is missing"
        )
    return ""


#: Phrases of Linux and macOS for a library that cannot be opened.
_LIBRARY = ("shared object file", "ELF header", "wrong ELF class", "dlopen(", "file too short")


def _opener(error: BaseException) -> str:
    """The method, with its class, that tried to open the file."""
    opener, trace = "", error.__traceback__
    while trace is not None:
        code, owner = trace.tb_frame.f_code, trace.tb_frame.f_locals.get("self")
        if owner is not None and type(owner).__module__.partition(".")[0] not in _MACHINERY:
            opener = f", where {type(owner).__qualname__}.{code.co_name} opens it"
        trace = trace.tb_next
    return opener


_MACHINERY = ("ctypes", "park", "pathlib", "codecs", "zipfile", "gzip", "subprocess")
