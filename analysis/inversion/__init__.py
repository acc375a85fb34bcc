"""Inversion: the latent code of which a generator makes a given image, guided by the discriminator's attention.

search.py follows the loss of loss.py, whose weights come from saliency.py, and chooses among restarts by distances.py;
targets.py says what is inverted, report.py and table.py what is left behind. The command is ../invert.py.
"""
