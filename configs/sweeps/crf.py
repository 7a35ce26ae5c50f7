r"""Does a CRF tag better than a softmax for each token?

Command:   python launch.py --config=configs/tag.py:debug --sweep=configs/sweeps/crf.py \
               --workdir=runs/crf
Hardware:  2 CPU cores; a minute a run

Lample et al. 2016, section 5.4, gain 1.79 F1 on CoNLL-2003 with it; here the tags are the roles of
names in source code.
"""

from configs.sweeping import grid, product, seeds


def sweep():
    """With and without, five seeds each."""
    return product(grid({"task.crf": [False, True]}), seeds(5))
