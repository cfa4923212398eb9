"""Sources of data: named sets, image folders, text, tables, toys. ``load`` gives any of them as ``Data``."""

from pofx.data.dataset import Binarised, Data, Part, Rows, Windows

__all__ = ["Binarised", "Data", "Part", "Rows", "Windows"]
