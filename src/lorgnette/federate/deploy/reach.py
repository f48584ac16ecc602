"""Whether a federation's server is reached, and how its clock stands to ours."""

from __future__ import annotations

import os
import ssl
import time
import urllib.request
from email.utils import parsedate_to_datetime

LOCAL = ("localhost", "127.0.0.1")


def reachable(address: str, ca_file: str | os.PathLike[str], timeout: float = 10.0) -> float:
    """Ask the server for its time over TLS.

    Args:
        address: HOST:PORT.
        ca_file: the authority's certificate.
        timeout: seconds.

    Returns:
        How many seconds the server's clock is ahead of ours; exact to about one second.

    Raises:
        ValueError: not reachable, or its certificate is not one of this authority for this name; one line.
    """
    try:
        secure = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(ca_file)))
        proxies = urllib.request.ProxyHandler({} if address.rpartition(":")[0] in LOCAL else None)
        opener = urllib.request.build_opener(secure, proxies)
        with opener.open(f"https://{address}/health", timeout=timeout) as reply:
            date = reply.headers.get("date")
    except OSError as error:
        reason = getattr(error, "reason", error)  # what urllib has wrapped
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ValueError(
                f"{address} shows a certificate that ca.crt does not vouch for ({reason.verify_message})"
            ) from None
        raise ValueError(f"{address} cannot be reached ({reason}): is the server up, the port open?") from None
    return parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0
