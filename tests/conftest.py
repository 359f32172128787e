"""For all tests: results must not depend on a GPU, a terminal or the number of cores."""

import torch

# tensors in tests are small: more threads would only wait for each other
torch.set_num_threads(1)
