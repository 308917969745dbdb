"""Text to tokens: the sources of text, and calibration samples."""
