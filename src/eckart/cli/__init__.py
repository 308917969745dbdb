"""The command line: the same words as the library, a file a command."""
