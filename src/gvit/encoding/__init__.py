"""Gaussians of images by a trained encoder, without any training or fit: of files, and of whole data sets."""

from gvit.encoding.images import (
    PHOTOGRAPH_COUNT,
    PHOTOGRAPH_SIDE,
    EncodedFile,
    EncodedImage,
    EncodedRow,
    ImageEncoder,
    encode_files,
    encoder_origin,
)
from gvit.encoding.sets import begin_set, encode_set, plan_set, unlabelled

__all__ = [
    "PHOTOGRAPH_COUNT",
    "PHOTOGRAPH_SIDE",
    "EncodedFile",
    "EncodedImage",
    "EncodedRow",
    "ImageEncoder",
    "begin_set",
    "encode_files",
    "encode_set",
    "encoder_origin",
    "plan_set",
    "unlabelled",
]
