"""What every model asks of its images."""

from torch import Tensor


def check_image_shape(images: Tensor, in_chans: int, img_size: int) -> None:
    """Images must be [B, in_chans, img_size, img_size].

    Raises:
        ValueError: they have another size or number of channels.
    """
    expected = (in_chans, img_size, img_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise ValueError(
            f"images must have shape [B, {', '.join(map(str, expected))}], got {list(images.shape)}"
        )
