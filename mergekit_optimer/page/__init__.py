"""A run's numbers -> report/index.html: one self-contained page with its figures, finished or not."""

from mergekit_optimer.page.analyses import ANALYSES, Analyses, read_analyses
from mergekit_optimer.page.data import PageData
from mergekit_optimer.page.render import Page, render_page
from mergekit_optimer.page.sections import page_gaps

__all__ = ["ANALYSES", "Analyses", "Page", "PageData", "page_gaps", "read_analyses", "render_page"]
