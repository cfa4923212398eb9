"""Sources of data: named sets, image folders, text, tables, toys. ``load`` gives any of them as ``Data``."""

from pofx.data.dataset import Binarised, Data, Part, Rows, Windows
from pofx.data.sources import FORCE, STREAM, Report, inspect, load, sources

__all__ = ["FORCE", "STREAM", "Binarised", "Data", "Part", "Report", "Rows", "Windows", "inspect", "load", "sources"]
