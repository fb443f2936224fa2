"""The result of an evaluation as one HTML file that needs nothing else and asks for nothing.

Data flows one way: a result (`gapcam evaluate --json`) becomes rows (`view`), marks on axes
(`charts`) and pictures (`gallery`), and a template joins them (`page`). The page loads nothing
from anywhere; its Content Security Policy allows no script but its own.
"""

from gapcam.report.gallery import GalleryItem, Group, comparison_image
from gapcam.report.page import render_report, write_report

__all__ = ["GalleryItem", "Group", "comparison_image", "render_report", "write_report"]
