"""The HTML pages, rendered on the server from the results of status/queries.py. They work without JavaScript."""

from __future__ import annotations
