"""`completion`: what a shell needs to complete commands, options and names.

eval "$(caa-bench completion bash)"        # in ~/.bashrc
eval "$(caa-bench completion zsh)"         # in ~/.zshrc, behind compinit
"""

from __future__ import annotations

import argparse
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from caa_bench.commands.base import Command

BASH = r"""_caa_bench() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} options names
  if [[ $word == = ]]; then word=; before=${COMP_WORDS[COMP_CWORD-1]}; fi
  if [[ $before == = ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi
  if (( COMP_CWORD == 1 )); then COMPREPLY=( $(compgen -W "$_caa_bench_commands" -- "$word") ); return; fi
  case ${before#--} in
%(values)s  esac
  case $command in
%(options)s  esac
  if [[ -n $names ]]; then options=$names; fi
  COMPREPLY=( $(compgen -W "$options" -- "$word") )
  if [[ $word != -* && -z $names ]]; then COMPREPLY+=( $(compgen -f -- "$word") ); fi
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}
_caa_bench_commands=%(commands)s
complete -o filenames -F _caa_bench caa-bench
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
KEYS = "behavior= model= seed= limit= bases= vectors= evaluators= caa.layers= caa.multipliers="
"""Recipe keys that are offered; all of them would be a screen."""


class Completion(Command):
    """Writes to stdout, and changes no file of the user's."""

    name = "completion"
    help = 'tab completion: eval "$(caa-bench completion bash)", or zsh'

    def add_options(self, parser: ArgumentParser) -> None:
        """Adds the shell."""
        parser.add_argument("shell", choices=["bash", "zsh"], help="for which shell")

    def run(self, options: Namespace) -> int:
        """Print the script."""
        print((ZSH if options.shell == "zsh" else "") + script(), end="")
        return 0


def script() -> str:
    """For bash; zsh reads it through bashcompinit."""
    from caa_bench.behaviors.behavior import behavior_names
    from caa_bench.commands.parser import commands_of, parser
    from caa_bench.models.model import model_names
    from caa_bench.storage.paths import recipes_folder

    names = {
        "behavior": [*behavior_names(), "all"],
        "model": model_names(),
        "recipe": sorted(path.stem for path in recipes_folder().glob("*.yaml")),
    }
    commands = commands_of(parser())
    values = "".join(f"    {key}) names={shlex.quote(' '.join(own))} ;;\n" for key, own in names.items())
    options = "".join(
        f"    {name}) options={shlex.quote(' '.join(_offered(own)))} ;;\n" for name, own in commands.items()
    )
    return BASH % {"commands": shlex.quote(" ".join(commands)), "values": values, "options": options}


def _offered(parser: ArgumentParser) -> Iterator[str]:
    """Its options, its steps, and recipe keys where it takes them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices
        elif action.choices:
            yield from map(str, action.choices)
        elif action.metavar == "KEY=VALUE":
            yield KEYS
        yield from (name for name in action.option_strings if name.startswith("--") and action.help != "==SUPPRESS==")
