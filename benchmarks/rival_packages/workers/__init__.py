"""Scripts that run in the environment of the package that they call: folder, tokens, options, folder to fill."""
