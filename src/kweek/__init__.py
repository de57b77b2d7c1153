"""Kweek grows a language model: from raw documents to an aligned, tool-using, 4-bit model, accounted and measured."""

__version__ = "0.1.0"
