"""ONNX Runtime's sessions, opened with care: a file may come from anybody. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

MAX_BYTES = 2**31


def open_session(file: str | os.PathLike[str], threads: int = 0) -> onnxruntime.InferenceSession:
    """A session on the processor.

    Args:
        file: an `.onnx` file that holds its weights; nothing beside it is read.
        threads: cores that it uses; 0: all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ONNX Runtime is not installed, or cannot run the file, in one line.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"{file} has {file.stat().st_size:,} bytes; an ONNX file of one piece has {MAX_BYTES:,} at most"
        )
    return session_of(file.read_bytes(), str(file), threads)


def session_of(model: bytes, name: str, threads: int = 0) -> onnxruntime.InferenceSession:
    """A session of what an `.onnx` file holds; see `open_session`. `name` is for errors."""
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("onnxruntime is not installed: pip install 'lorgnette[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised as well
    try:
        # From memory: a path would let the file name others, which are read with it.
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, and none of them promised
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} is no ONNX file that can be run ({reason})") from None
