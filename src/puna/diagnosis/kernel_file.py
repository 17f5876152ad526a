"""Files that the kernel writes when they are read, in /proc and /sys."""

from pathlib import Path


def read_kernel_file(path: Path) -> str:
    """The text without white space at its ends; empty where the file is not there or may not be
    read, as off Linux and in some containers.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
