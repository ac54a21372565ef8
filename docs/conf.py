"""Sphinx settings of PARK's documentation. The build needs no network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from park.cli import broker, kernel, park
from park.version import __version__

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.rooms import ROOMS

project = "PARK"
copyright = "PARK developers"
version = release = __version__
extensions = ["sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"PARK {release}"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"

PROGRAMS = {"park": park.main, "park-broker": broker.main, "park-kernel": kernel.main}


class CommandHelp(SphinxDirective):
    """``.. command-help:: PROGRAM``: its ``--help``, and that of each of its subcommands, in sections."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        program = self.arguments[0]
        return list(self._sections(PROGRAMS[program], click.Context(PROGRAMS[program], info_name=program)))

    def _sections(self, command: click.Command, context: click.Context) -> Any:
        name = context.command_path
        section = nodes.section(ids=[nodes.make_id(name)], names=[name])
        text = command.get_help(context)
        section += [nodes.title(name, name), nodes.literal_block(text, text, language="text")]
        yield section
        if isinstance(command, click.Group):
            for each in command.list_commands(context):
                inner = command.get_command(context, each)
                assert inner is not None
                yield from self._sections(inner, click.Context(inner, info_name=each, parent=context))


class RoomTable(SphinxDirective):
    """``.. room-table::``: each room, its modules, and the rooms and libraries that it may import."""

    def run(self) -> list[nodes.Node]:
        lines = [".. list-table::", "   :header-rows: 1", ""]
        rows = [("room", "modules", "may import rooms", "and libraries")]
        for room in ROOMS:
            modules = ", ".join(f"``{name}``" for name in room.holds)
            rows.append((room.name, modules, ", ".join(room.may), ", ".join(room.libraries)))
        for row in rows:
            lines += [
                f"   {'* -' if first else '  -'} {cell}"
                for first, cell in zip((1, 0, 0, 0), row, strict=True)
            ]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_directive("command-help", CommandHelp)
    app.add_directive("room-table", RoomTable)
