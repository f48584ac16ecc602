"""What a site's node does in another way than Flower's: when it looks for messages, and how it comes back.

Imports neither flwr nor torch.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorgnette.common.files import write_text

NODE_ID = "LORGNETTE_NODE_ID"  # environment: file for the number that the server knows this node by
POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 10.0


class Waits:
    """How long a node sleeps between looks, in place of `time` in Flower's node.

    Flower sleeps 3 s before it asks the server again, most of a short round. Here it is a tenth of the time since the
    node last had work: the site that a round waited for is the first to see the next one, and idle nodes are no burden
    to the server.
    """

    def __init__(self) -> None:
        self.idle_since = time.monotonic()

    def sleep(self, seconds: float) -> None:
        """No longer than the seconds that Flower would sleep: below 1 it waits for its own client, else for work."""
        if seconds < 1:
            self.idle_since = time.monotonic()
        idle = time.monotonic() - self.idle_since
        time.sleep(min(seconds, max(POLL_SECONDS, idle / 10)))


def coming_back(
    activate: Callable[[Any, Any], Any], deactivate: Callable[[Any, int], object]
) -> Callable[[Any, Any], Any]:
    """Flower's activation of a node, such that one that was killed need not wait until the server misses it.

    The server takes a key for online, and lets nobody in with it, until two heartbeats are missing. A node that
    finds itself shut out says goodbye for the one before it on this machine, of which it knows that it is gone (its
    folder is locked by one node at a time), and tries again.

    Args:
        activate: (client, request) -> response with a `node_id`; raises where the server refuses.
        deactivate: (client, node_id).
    """
    file = Path(os.environ[NODE_ID])

    def activate_again(client: Any, request: Any) -> Any:
        try:
            response = activate(client, request)
        except Exception:
            with contextlib.suppress(Exception):  # no such number, or a server that is not there: activation says so
                deactivate(client, int(file.read_text()))
            response = activate(client, request)
        write_text(file, str(response.node_id))
        return response

    return activate_again
