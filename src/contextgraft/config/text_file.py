"""Text files as editors and spreadsheets save them: UTF-8 with or without a byte order mark, or UTF-16."""

import codecs
import re
from pathlib import Path

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LINE_END = re.compile(r"\r\n|\n|\r")


def read_text_file(path: Path) -> str:
    """The text without its byte order mark; OSError or UnicodeDecodeError where it cannot be read."""
    raw = path.read_bytes()
    return raw.decode("utf-16" if raw.startswith(UTF_16) else "utf-8-sig")


def path_exists(text: str) -> bool:
    """Whether a text names a file or folder; text that cannot be a path does not."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def split_lines(text: str) -> list[str]:
    """Lines by LF, CRLF or CR only: other separators, such as U+2028, are text. No empty line at the end."""
    lines = LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]
