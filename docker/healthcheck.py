"""Is the service in this container well? Exit status 0 if it takes requests, else 1.

A service whose engine has died answers 503 on /health/live and stays so. Docker restarts containers that end, not those
that are unhealthy: so this ends it, with the signal that lets streams say their last words.
"""

from __future__ import annotations

import os
import signal
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def status(url: str) -> int | None:
    """The HTTP status of `url`; None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def main(url: str, pid: int) -> int:
    """Check the service at `url`; where it lives no more, end the process `pid`."""
    if status(f"{url}/health/ready") == 200:
        return 0
    if status(f"{url}/health/live") == 503:
        os.kill(pid, signal.SIGTERM)
    return 1


if __name__ == "__main__":
    sys.exit(main(f"http://127.0.0.1:{os.environ.get('MLA_ASR_PORT', '8000')}", pid=1))
