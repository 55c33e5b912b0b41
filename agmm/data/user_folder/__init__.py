"""A folder of the user's images with sparse labels of any of the formats: listed, checked, drawn, and read as data.

`survey` lists what belongs together, `render` makes training labels of it, `prepare` writes images and labels in their
working size to a folder of our layout, and `load` reads that as a `Split`. Class codes are 0 … K-1 in the order of the
class names; masks hold these, 254 (unlabeled) and 255 (void), as index or gray value.
"""

from agmm.data.user_folder.listing import Survey, class_names, dense_masks, images, skipped, survey
from agmm.data.user_folder.prepared import Prepared, Tally, load, prepare, read_prepared, repeated, weights
from agmm.data.user_folder.rendering import Sample, read_mask, render, shrink
