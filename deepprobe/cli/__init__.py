"""The command ``deepprobe``: one file a verb, loaded only when its verb is called.

Exit codes: 0 done; 1 something the user can mend (one line says what); 2 a wrong option or setting; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from deepprobe.errors import ConfigError, DeepprobeError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = {
    "probe": "condition numbers and spectra of every layer of one network",
    "diagnose": "what is wrong with one network, in plain words, with evidence and advice",
    "attribute": "how much each unit of one network adds to its answers, and how few hold most of it",
    "train": "train networks, with probes along the way; complete runs are skipped",
    "autopsy": "what happened in the first steps of a training, in which order",
    "lottery": "lottery tickets: train, prune, rewind, again, beside controls; a table and a page of it all",
    "ticket": "one ticket of an experiment as a file for plain PyTorch",
    "report": "one HTML page from runs, or from an experiment",
    "models": "the networks that can be named",
    "runs": "the runs in a folder",
}

HELP = f"""usage: deepprobe VERB [OPTIONS]

Why does this very deep network train, or fail to? Per-layer condition numbers and spectra.

verbs:
{chr(10).join(f"  {verb:<10} {what}" for verb, what in VERBS.items())}

examples:
  deepprobe models 'resnet*'
  deepprobe probe resnet20 --data digits
  deepprobe diagnose plainnet164 --data digits --lr 0.1
  deepprobe attribute runs/resnet56-seed0 --out units.csv
  deepprobe train plainnet56 resnet56 --data digits --epochs 8 --probe-every 1ep --out runs
  deepprobe train --resume runs
  deepprobe autopsy plainnet56 --data digits --lr 0.5
  deepprobe report runs --html report.html
  deepprobe lottery lenet300_100 --data digits --rounds 5 --controls reinit --out tickets

deepprobe VERB --help says what a verb takes; deepprobe --version says the version.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: What stands after ``deepprobe``; by default that of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except ConfigError as error:
        return _complain(str(error), 2)
    except DeepprobeError as error:
        return _complain(str(error), 1)
    except BrokenPipeError:  # the reader (head, less) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt as stop:  # training says where it stopped, and how to go on
        is_main = os.environ.get("RANK", "0") == "0"  # all processes of torchrun stop together, and one speaks
        return _complain(str(stop) or "interrupted", 130) if is_main else 130
    except SystemExit as stop:  # the option parser has said why
        return stop.code if isinstance(stop.code, int) else 2


def _dispatch(words: list[str]) -> int:
    """Answer the general options, or hand the words after the verb to it."""
    if not words or words[0] in {"-h", "--help", "help"}:
        print(HELP, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"deepprobe {version('deepprobe')}")
        return 0
    if words[0] not in VERBS:
        return _complain(f"there is no verb {words[0]!r}; {nearest(words[0], VERBS)}", 2)
    import_module(f"deepprobe.cli.{words[0]}").run(words[1:])
    return 0


def _complain(message: str, code: int) -> int:
    """Say in one line on stderr what went wrong, and in which of the processes that torchrun started."""
    rank = os.environ.get("RANK", "")
    print(f"deepprobe{f' (rank {rank})' if rank else ''}: {' '.join(message.split())}", file=sys.stderr)
    return code
