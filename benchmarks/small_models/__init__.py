"""Small models with trained weights: one that sees, a mixture of experts, an encoder of sentences.

They are made on the machine that measures them, from pictures that are drawn and from text that comes with Python.
"""
