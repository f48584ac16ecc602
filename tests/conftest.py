"""Ctrl-C is tried in tests: it must mean something also where a background shell started them, ignoring it."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
