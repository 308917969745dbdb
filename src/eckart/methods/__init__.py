"""The choices that a recipe is made of."""
