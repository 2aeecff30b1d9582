"""Is the service in this container well? Exit status 0 if it takes requests, else 1.

A service whose engine has died says so on /health/live and stays so. Docker restarts containers that end, not those
that are unhealthy: so this ends it, with the signal that lets streams say their last words. One that has no connection
left refuses with 503, too, but is well: its answer is of another shape.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def status(url: str) -> str | None:
    """What `url` says of the service: ok, starting, draining, failed; None where it does not."""
    try:
        try:
            answer = urllib.request.urlopen(url, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return str(json.load(answer)["status"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def main(url: str, pid: int) -> int:
    """Check the service at `url`; where it lives no more, end the process `pid`."""
    if status(f"{url}/health/ready") == "ok":
        return 0
    if status(f"{url}/health/live") == "failed":
        os.kill(pid, signal.SIGTERM)
    return 1


if __name__ == "__main__":
    sys.exit(main(f"http://127.0.0.1:{os.environ.get('MLA_ASR_PORT', '8000')}", pid=1))
