"""Which commit of this program runs."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
GIT_SECONDS = 10  # that git may take


def commit() -> str:
    """The commit of a checkout, or that this is an installed package."""
    if not (ROOT / ".git").exists():
        return "installed"
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "commit unknown"
    return f"commit {done.stdout.strip()[:12]}" if done.returncode == 0 else "commit unknown"
