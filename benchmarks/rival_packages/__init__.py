"""Other packages that quantise models: where they are installed, how each is run, and what its file takes.

None of them is a dependency. Each has an environment of its own, made by ``install_rivals.sh``, since they ask for
versions of transformers that exclude each other. What is in ``workers`` runs there, and imports nothing of Eckart.
"""
