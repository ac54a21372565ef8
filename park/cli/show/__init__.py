"""Tables, columns, screens and values as the commands show them, on a terminal and in a pipe.

Only `park.cli` calls it. It imports the words and `park.util`, and rich on a terminal.
"""
