"""Ctrl-C is tried in tests: it must mean something here too where a shell started them in the background, ignoring it."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
