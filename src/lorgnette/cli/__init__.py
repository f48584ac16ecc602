"""The command line: `lorgnette VERB ...`. Each verb is one file here, imported when it is asked for.

Exit status: 0 well done, 2 something the user can put right (one line on stderr says what), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from lorgnette.common.text import nearest, one_line
from lorgnette.images.notes import in_one_line

VERBS = {
    "demo": "adapt the shipped model to a camera and show what that gains, in a few minutes",
    "prepare": "compute once what training reads again and again",
    "train": "adapt a model to your own data",
    "eval": "measure an adapter against the model without it",
    "enhance": "enlarge images, with an adapter or as shipped",
    "cmsr": "make tables by which smooth parts of pictures are enlarged with less work",
    "classify": "say what is on pictures",
    "mesh": "turn masks of organs into closed surfaces in millimetres",
    "embed": "make embeddings of faces with your own ONNX models",
    "rotate": "map embeddings of faces to another pose",
    "decode": "make meshes of organs by a trained decoder",
    "federate": "train one adapter over data that stays with its holders",
    "serve": "a page and an HTTP API on this machine, for all of it",
    "merge": "fold an adapter into its model for good",
    "prune": "make a network narrower and quicker, and let it learn again",
    "export": "write a model as a file that other programs run",
    "push": "share an adapter or a model on the Hugging Face Hub",
    "info": "say what an adapter or a weight file holds",
    "doctor": "say what is installed, what is missing, and where files lie",
    "completion": "write a script by which your shell completes these words",
}

PAGE = """\
lorgnette train superres --data.root photos           adapt the shipped model to a folder of images
lorgnette enhance small.jpg large.png --scale 3.3     enlarge an image

Adapt vision models with low-rank updates, and put them to use.

verbs:
{verbs}

lorgnette VERB --help says more, `lorgnette version` which this is. LORGNETTE_DEBUG=1 shows where an error came from."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `lorgnette`; by default those of this process.

    Returns:
        The exit status.
    """
    try:
        try:
            with in_one_line():
                status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        except SystemExit as end:  # argparse ends so after --help
            status = end.code if isinstance(end.code, int) else 0
        sys.stdout.flush()  # here, where a reader that is gone can be forgiven, and not when Python ends
        return status
    except KeyboardInterrupt:
        print("lorgnette: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output is gone, as `| head` does: no reason to complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("LORGNETTE_DEBUG"):
            raise
        print(f"lorgnette: error: {one_line(error)}", file=sys.stderr)
        return 2


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(PAGE.format(verbs="\n".join(f"  {name:<10} {about}" for name, about in VERBS.items())))
        return 0 if words else 2
    verb = words[0]
    if verb in ("--version", "version"):
        from lorgnette.version import __version__

        print(f"lorgnette {__version__}")
        return 0
    if verb not in VERBS:
        raise ValueError(f"unknown verb {verb}{nearest(verb, VERBS)}; there is {', '.join(VERBS)}")
    return import_module(f"lorgnette.cli.{verb}").run(words[1:])
