"""What the verbs that send something share: options, the preview, and the question before anything becomes public."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from mergekit_optimer.errors import HubError
from mergekit_optimer.hub import PushPlan, in_bytes

Command = Callable[..., Any]


def send_options(command: Command) -> Command:
    """The options of every verb that pushes to the Hub."""
    options = (
        click.option("--dry-run", is_flag=True, help="Show files, sizes, visibility and cards; send nothing."),
        click.option("--public", is_flag=True, help="Anybody may see it.  [default: private, or as the recipe says]"),
        click.option("--yes", is_flag=True, help="Do not ask before something becomes public."),
    )
    for option in options:
        command = option(command)
    return command


def asker(dry_run: bool, yes: bool) -> Callable[[Sequence[PushPlan]], bool]:
    """What shows the plans of a push and says whether to go on."""

    def accept(plans: Sequence[PushPlan]) -> bool:
        for plan in plans:
            _show(plan, whole=dry_run)
        if dry_run:
            click.echo("Nothing was sent: this was a dry run.")
            return False
        public = [plan.upload.repo for plan in plans if not plan.upload.private]
        if public and not yes:
            try:
                click.confirm(f"{', '.join(public)} will be visible to anybody. Go on?", abort=True, err=True)
            except click.Abort as error:
                if sys.stdin.isatty():
                    raise
                click.echo(err=True)
                raise HubError(
                    "Nothing was sent: nobody agreed that all may see it. Where there is nobody to ask, say --yes."
                ) from error
        return True

    return accept


def _show(plan: PushPlan, whole: bool) -> None:
    """Print a plan: to stdout where it is all that is asked for, else to stderr."""
    upload = plan.upload
    visibility = "private" if upload.private else "public"
    state = "new" if not plan.exists else "as it is there" if not plan.sent and not plan.removed else "to be changed"
    click.echo(
        f"{upload.repo}  {visibility}, {state}: {len(plan.sent)} of {len(upload.files)} files to send, "
        f"{in_bytes(plan.size_bytes)}",
        err=not whole,
    )
    if not whole:
        return
    sent = {file.path for file in plan.sent}
    for path, content in sorted(plan.contents.items()):
        click.echo(f"  {'+' if path in sent else '='} {path}  {in_bytes(content.size)}")
    for path in plan.removed:
        click.echo(f"  - {path}")
    click.echo("\n" + upload.card.rstrip() + "\n")
