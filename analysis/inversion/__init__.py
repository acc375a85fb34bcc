"""Inversion of a picture: what it aims at (targets.py, photograph.py), how it is chosen (config.py), what it minimises
(loss.py, saliency.py), the search (search.py, lookahead.py, tuning.py), the judges (distances.py, calibration.py), and
what is written (job.py, report.py, table.py, comparison.py). The command is ../invert.py.
"""
