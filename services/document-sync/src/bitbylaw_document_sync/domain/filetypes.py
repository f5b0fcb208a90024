"""Which files xAI is not bothered with: empty, too large, or of a kind without text (pure)."""

from enum import Enum

from bitbylaw_document_sync.domain.naming import ending

MIB = 1024 * 1024
LARGEST_BYTES = 48 * MIB
"""xAI documents 50 MB in one place and 48 in another; the smaller one holds everywhere."""

# xAI publishes no complete list of what it reads, so only what cannot hold text is turned away
# here; of everything else xAI is the better judge, and its refusal is written back.
_KINDS = ("audio/", "video/", "font/")
_TYPES = frozenset(
    {
        "application/gzip",
        "application/java-archive",
        "application/vnd.android.package-archive",
        "application/vnd.microsoft.portable-executable",
        "application/vnd.rar",
        "application/x-7z-compressed",
        "application/x-apple-diskimage",
        "application/x-bzip2",
        "application/x-dosexec",
        "application/x-executable",
        "application/x-gzip",
        "application/x-iso9660-image",
        "application/x-ms-installer",
        "application/x-msdos-program",
        "application/x-msdownload",
        "application/x-msi",
        "application/x-rar-compressed",
        "application/x-sharedlib",
        "application/x-tar",
        "application/x-zip-compressed",
        "application/zip",
    }
)
_ENDINGS = frozenset(
    {
        "7z", "aac", "apk", "avi", "bat", "bin", "bz2", "cmd", "com", "dll", "dmg", "exe", "flac",
        "gz", "iso", "jar", "lnk", "m4a", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg", "msi", "ogg",
        "otf", "rar", "scr", "so", "sys", "tar", "tgz", "ttf", "wav", "webm", "wma", "wmv", "xz",
        "zip",
    }
)  # fmt: skip


class Unfit(Enum):
    """Why a file is not uploaded; the value says it to an operator."""

    EMPTY = "the file is empty"
    TOO_LARGE = f"the file is larger than {LARGEST_BYTES // MIB} MiB"
    UNSUPPORTED = "files of this type hold no text that xAI could search"


def unfit(name: str, mime: str, size: int | None) -> Unfit | None:
    """Return why such a file is not uploaded, None where it may be.

    Args:
        name: the file's name; its ending counts.
        mime: as the CRM says; parameters and case do not matter.
        size: bytes; None where unknown.
    """
    if size == 0:
        return Unfit.EMPTY
    kind = mime.partition(";")[0].strip().casefold()
    if kind in _TYPES or kind.startswith(_KINDS) or ending(name) in _ENDINGS:
        return Unfit.UNSUPPORTED
    if size is not None and size > LARGEST_BYTES:
        return Unfit.TOO_LARGE
    return None
