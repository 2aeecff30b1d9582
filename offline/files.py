"""Files that are there as a whole, or as they were before."""

from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Writes a file and the folder that it is in. Stopped, or read, in between: it is the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(content.encode() if isinstance(content, str) else content)
    fresh.replace(path)
