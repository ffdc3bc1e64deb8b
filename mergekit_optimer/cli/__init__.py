"""The command line: one command per verb, one place that turns errors into sentences and exit codes.

Exit status 0: done; 1: a known error, told in a sentence; 2: wrong usage; 130: stopped by Ctrl-C; 143: by SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

import click

from mergekit_optimer import __version__
from mergekit_optimer.cli.analysis import cost
from mergekit_optimer.cli.evolve import import_evolve
from mergekit_optimer.cli.merge import merge
from mergekit_optimer.cli.mixture import mixture
from mergekit_optimer.cli.objectives import objectives
from mergekit_optimer.cli.stages import card, compare, evaluate, publish, report, run, search, train, validate
from mergekit_optimer.cli.vectors import vectors
from mergekit_optimer.errors import OptimerError


@click.group(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mergekit-optimer")
def cli() -> None:
    """Find the merge weights of distribution vectors after continual pre-training.

    A recipe names a base model, one dataset (or checkpoint) per vector, dev tasks to search on and held-out tasks to
    report. Data go to stdout, everything else to stderr.

    \b
    Start with:  mergekit-optimer run recipes/demo/recipe.yaml
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mergekit_optimer").setLevel(logging.INFO)


for _command in (
    run, validate, train, vectors, search, merge, evaluate, compare, mixture, objectives, cost, report,
    card, publish, import_evolve,
):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """Entry point of ``mergekit-optimer``."""
    # Before torch loads: spinning OpenMP threads cost five times the work on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Scores must not depend on how many threads a process has; without this they do on Intel's processors.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli(standalone_mode=False)
    except OptimerError as error:
        _end(f"error: {error}", 1)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _end("stopped; the same command goes on, and does again what was not finished", 130)
    except _Terminated:
        _end("stopped by SIGTERM; the same command goes on, and does again what was not finished", 143)
    except BrokenPipeError:
        # The reader of stdout is gone; nothing is left to say, and the interpreter must not try to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _end(f"error: {place}{error.strerror}. Mend that, then run the same command again: it goes on.", 1)


class _Terminated(BaseException):
    """A scheduler's SIGTERM; no library's ``except Exception`` may swallow it."""


def _terminate(*_: object) -> None:
    # Once: what is done on the way out must not be torn again.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def _end(sentence: str, status: int) -> None:
    click.echo(sentence, err=True)
    sys.exit(status)
