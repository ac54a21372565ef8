"""``park completion``: prints the lines that make a shell complete the words of all commands."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes a shell complete commands of park.

    Commands, options, the numbers and tags of jobs, owners and kernels.

    \b
    bash, in ~/.bashrc:                     eval "$(park completion bash)"
    zsh, in ~/.zshrc:                       eval "$(park completion zsh)"
    fish, in ~/.config/fish/config.fish:    park completion fish | source
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    if shell == "bash":  # it would take the colon of tag:x for the end of a word
        click.echo('COMP_WORDBREAKS="${COMP_WORDBREAKS//:/}"')
    click.echo(made(ctx.find_root().command, {}, "park", "_PARK_COMPLETE").source())


# -- what is completed -------------------------------------------------------------------------------
