"""What `costate` runs, one module a command; importing one loads neither torch nor pandas.

A module has `add(parser)`, its flags; `run(options)`, which does the work and returns what --json prints; and
`text(found, options)`, the same in words, or None where all was said on the way. `line.main` does the rest for every command.
"""
