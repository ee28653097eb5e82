"""Reports on a network: values that print as a table, as JSON, as CSV and as Markdown.

Read report.py first: a report is a table of columns. Then each report stands for itself:

    inspect.py        parameters by name, shape and form
    summary.py        modules with shapes and multiply-adds; module_tree.py recovers the modules from a graph
    compare.py        layers against those of torch_reference.py, the only importer of torch
    profile.py        the time of every step; measure.py measures it, profile_changes.py compares it with an earlier one
    profile_html.py, chrome_trace.py, plots.py    pictures
"""
