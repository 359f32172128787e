"""Fit a photograph with 1,000 Gaussians in plain PyTorch: python fit_photograph.py [steps]"""

import sys

import torch
from skimage import data
from torch.nn import functional as F

import gvit

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
photo = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255
photo = F.interpolate(photo[None], (128, 128), mode="area")[0]

torch.manual_seed(0)
raw = torch.randn(1000, 9).requires_grad_()
optimizer = torch.optim.Adam([raw], lr=0.05)
for step in range(steps):
    image = gvit.render(gvit.Gaussians(raw, nominal_count=1000), 128, 128)
    loss = F.mse_loss(image, photo)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0 or step == steps - 1:
        print(f"step {step}: {-10 * loss.log10().item():.2f} dB")
