"""The mean and standard deviation of ImageNet's images, which networks normalise images with."""

import numpy as np

MEAN = np.array([0.485, 0.456, 0.406])  # of red, green and blue in [0, 1]
STD = np.array([0.229, 0.224, 0.225])
