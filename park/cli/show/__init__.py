"""Tables, columns, screens and values as the commands show them, on a terminal and in a pipe."""
