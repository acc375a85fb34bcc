"""The book of patterns: a study of masks (study.py), its figures (drawings.py) and its page (page.py).

The command is ../patterns.py.
"""
