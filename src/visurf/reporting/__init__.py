"""Pages that people look at: the report of runs with its group viewer, and the comparison of two models.

A page is one file without a network: data as JSON, texts of models only ever as text. Run folders are read and never written to.
"""

from __future__ import annotations
