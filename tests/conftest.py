"""For all tests: results must not depend on a GPU, a terminal or the number of cores."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # for pretrained_models, which tests of several rooms share

# tensors in tests are small: more threads would only wait for each other
torch.set_num_threads(1)
