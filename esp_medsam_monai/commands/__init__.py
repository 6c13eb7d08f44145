"""The commands of ``esp-medsam``, one a module: arguments and words for people; the work is done elsewhere.

Each module of a command has ``add(commands)``, which adds it to an argument parser; ``segment`` also looks at the
words, for its options are those of the bundle that they name. Nothing here imports torch or MONAI before a command
needs them, so that ``--help`` answers at once.
"""
